"""Searches without Ray: spaces and their errors, studies, objectives."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import optuna
import pandas as pd
import pytest
import yaml
from finished import finish
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tiny import DCASE, MACHINES, build_year

from asdray.config.backend import backend_id
from asdray.config.expand import bases, load_sweep
from asdray.config.search import Asha, HyperBand, Median, check_axis, corners, draw
from asdray.config.sweep import Sweep
from asdray.config.system import System
from asdray.config.train import Train
from asdray.config.trial import Trial
from asdray.dcase.manifest import load_dataset
from asdray.dcase.years import get_year
from asdray.store import Places, SweepDir, sweep_dir
from asdray.sweep import objective, selection, study
from asdray.sweep.estimate import Estimator, UpcomingSystems
from asdray.sweep.events import event_of, failed
from asdray.sweep.jobs import Job, event_key
from asdray.sweep.progress import Progress, StageCounts, trials_line
from asdray.sweep.search import SearchRun, best_mean, known_jobs, open_search
from asdray.sweep.status import plan_lines, status
from asdray.sweep.study import Studies, study_names
from asdray.sweep.training_worker import EPOCHS_DONE, TRAIN_LOSS, Assignment
from asdray.sweep.tune import GroupScheduler

SMALL_FFT = {"name": "fft", "channels": 4, "kernels": [32, 16, 4], "strides": [16, 8, 2], "hidden": 1}
SEARCH = {"algorithm": "optuna", "num_samples": 4, "objective": "official_dev", "max_concurrent": 1}


def write(tmp_path, **changes):
    spec = {
        "name": "hunt",
        "recipes": {"dis_baseline": None},
        "space": {"train.learning_rate": {"loguniform": [1e-4, 1e-2]}},
        "dcase": [DCASE],
        "seeds": [0],
        "search": SEARCH,
        **changes,
    }
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in spec.items() if value is not None}))
    return path


def refused(tmp_path, **changes):
    with pytest.raises(ValueError) as caught:
        load_sweep(write(tmp_path, **changes))
    return str(caught.value)


# ------------------------------------------------------------------------------------------------ schema


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"train.learning_rate": {"logunifrom": [1, 2]}}}, "space.train.learning_rate: unknown kind of axis 'logunifrom'; did you mean 'loguniform'?"),
        ({"space": {"train.learning_rate": {"loguniform": [0, 1]}}}, "loguniform needs ends above 0"),
        ({"space": {"train.learning_rate": {"uniform": [1]}}}, "uniform needs [low, high]"),
        ({"space": {"train.learning_rate": {"uniform": [2, 1]}}}, "a low end below its high end"),
        ({"space": {"train.batch_size": {"randint": [2.5, 8]}}}, "randint needs whole numbers"),
        ({"space": {"train.learning_rate": {"quniform": [0.1, 0.2, 0.5]}}}, "fit between the ends"),
        ({"space": {"train.learning_rate": 1e-3}}, "a fixed value goes to 'set'"),
        ({"space": {"train.learning_rate": []}}, "at least one value"),
        ({"space": {"train.learning_rate": [1e-3, 1e-3]}}, "names 0.001 twice"),
        ({"space": {"train.learnign_rate": [1e-3]}}, "did you mean 'train.learning_rate'?"),
        ({"space": {"train.batch_size": {"uniform": [4, 8]}}}, "train.batch_size is 5.528: must be a whole number"),
        ({"space": {"train.learning_rate": {"uniform": [-1.0, 1.0]}}}, "train.learning_rate is -1.0"),
        ({"space": {"frontend.loss": [{"name": "adacos"}, {"name": "subcluster_adacos", "n_subclusters": {"randint": [0, 4]}}]}}, "n_subclusters is 0"),
        ({"space": {"frontend.loss": [{"name": "adacos", "scale": {"uniform": [3, 1]}}]}}, "space.frontend.loss[0].scale"),
        ({"search": None}, "a grid knows only lists"),
        ({"search": {**SEARCH, "objective": {"metric": "official_eval"}}}, "the eval subset can never be an objective"),
        ({"search": {**SEARCH, "objective": "official_dve"}}, "search.objective.metric is 'official_dve'; did you mean 'official_dev'?"),
        ({"search": {**SEARCH, "objective": None}}, "needs objective"),
        ({"search": {**SEARCH, "num_samples": None}}, "needs num_samples"),
        ({"search": {**SEARCH, "objective": {"metric": "train_loss", "backend": "knn"}}}, "backend counts only for official_dev"),
        ({"search": {**SEARCH, "objective": {"metric": "official_dev", "backend": "gmm"}}}, "the backend gmm with these options is none of the backends that score dis_baseline"),
        ({"search": {**SEARCH, "objective": {"metric": "official_dev", "checkpoint": "best"}}}, "search.objective.checkpoint is 'best'"),
        ({"search": {**SEARCH, "algorithm": "hyperopt"}}, "search.algorithm is 'hyperopt'"),
        ({"search": {"algorithm": "grid", "num_samples": 3}, "space": None}, "num_samples has no meaning in a grid"),
        ({"search": {**SEARCH, "algorithm": "random", "sampler": "TPE"}}, "sampler: random has none"),
        ({"ensembles": [{"name": "s", "of": "top", "k": 2}]}, "ensembles are made of systems that are known beforehand"),
        ({"search": None, "space": None, "scheduler": "asha"}, "scheduler belongs to a search"),
        ({"search": None, "space": None, "confirm": {"seeds": [1]}}, "confirm belongs to a search"),
        ({"choose_by": "dev_amean"}, "choose_by is 'dev_amean', but a search chooses by search.objective"),
        ({"search": None, "space": None, "choose_by": "eval_amean"}, "the eval subset must not choose"),
        ({"search": None, "space": None, "choose_by": "dev_amaen"}, "did you mean 'dev_amean'"),
        ({"scheduler": {"name": "ahsa"}}, "scheduler.name is 'ahsa'; did you mean 'asha'?"),
        ({"scheduler": "asha", "space": {"train.epochs": [1, 2]}}, "leave train.epochs out of the space"),
        ({"scheduler": "asha", "recipes": {"raw_spec": None}, "space": {"frontend.n_mels": [8, 16]}}, "nothing is trained"),
        ({"scheduler": {"name": "median", "grace_period": 5}, "recipes": {"dis_baseline": {"set": {"train.epochs": 4}}}}, "with grace_period 5 it stops nothing, no trial has over 4 epochs"),
        ({"scheduler": "asha", "space": {"frontend.loss": [{"name": "adacos"}, {"name": "arcface"}]}}, "those of adacos, arcface cannot be compared"),
        ({"scheduler": "asha", "space": {"frontend.heads": [[], [{"name": "featex"}]]}}, "those of adacos, adacos + featex (subcluster_adacos) cannot be compared"),
        ({"confirm": {"seeds": [0, 1]}}, "the search used 0 too"),
        ({"confirm": {"seeds": [1], "dcase": ["dcase2032"]}}, "unknown DCASE year 'dcase2032'"),
        ({"machines": {DCASE: ["bandsaw"]}}, "needs a dev machine"),
        ({"recipes": {"raw_spec": None}, "space": None, "search": {**SEARCH, "objective": "train_loss"}}, "learns nothing"),
        ({"recipes": {"dis_spec_featex_asdkit": None}}, "recipes.dis_spec_featex_asdkit: frontend.labels is 'asdkit'"),
        ({"recipes": {"dis_baseline": {"set": {"frontend.labels": "asdkit"}}}}, "use frontend.labels: train_only"),
        ({"space": {"frontend.labels": ["train_only", "asdkit"]}}, "space.frontend.labels: frontend.labels is 'asdkit'"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_said_with_its_place(tmp_path, changes, message):
    assert message in refused(tmp_path, **changes)


@pytest.mark.parametrize("changes", [
    {"recipes": {"dis_baseline": None, "raw_spec": None}, "space": None},
    {"recipes": {"dis_baseline": None, "dis_spec_featex": None}},
    {"recipes": {"ae_baseline": {"set": {"train.epochs": 1}}}, "scheduler": {"name": "asha", "grace_period": 7}},
    {"space": {"frontend.loss": [{"name": "arcface", "trainable": {"choice": [True, False]}}]}},
])  # fmt: skip
def test_a_scheduler_may_have_recipes_that_learn_nothing_or_otherwise_beside_each_other(tmp_path, changes):
    assert load_sweep(write(tmp_path, **{"scheduler": "asha", **changes})).scheduler is not None


def test_a_search_reads_back_from_the_spec_that_is_written_of_it(tmp_path):
    sweep = load_sweep(
        write(tmp_path, scheduler="hyperband", confirm={"seeds": 7, "dcase": "dcase2024", "top_k": 2})
    )
    assert sweep.years == (DCASE, "dcase2024")
    assert sweep.columns == ("dcase2024-dev", "dcase2024-eval")
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(sweep.model_dump(mode="json")))
    assert load_sweep(again) == sweep


(BASE,) = bases(Sweep(name="x", recipes=["dis_baseline"], dcase=[DCASE], seeds=[0]), "x")
SPACE = {
    "train.learning_rate": {"loguniform": [1e-4, 1e-2]},
    "train.batch_size": {"randint": [2, 9]},
    "frontend.mixup_probability": {"quniform": [0.0, 0.9, 0.1]},
    "frontend.loss": [
        {"name": "adacos"},
        {"name": "subcluster_adacos", "n_subclusters": {"choice": [2, 16]}, "trainable": {"choice": [True, False]}},
    ],
}  # fmt: skip


class Fixed:
    """Answers with given numbers between 0 and 1, in turn."""

    def __init__(self, numbers):
        self.numbers, self.names = iter(numbers), []

    def _next(self, name):
        self.names.append(name)
        return next(self.numbers)

    def suggest_float(self, name, low, high, *, step=None, log=False):
        x = self._next(name)
        value = low * (high / low) ** x if log else low + x * (high - low)
        return value if step is None else low + step * int((value - low) / step)

    def suggest_int(self, name, low, high):
        return min(high, low + int(self._next(name) * (high - low + 1)))

    def suggest_categorical(self, name, choices):
        return choices[min(len(choices) - 1, int(self._next(name) * len(choices)))]


@given(st.lists(st.floats(0, 1), min_size=6, max_size=6))
def test_every_draw_is_a_system_and_asks_only_for_members_that_are_there(numbers):
    asked = Fixed(numbers)
    sample = draw(SPACE, asked)
    system = BASE.varied(sample)
    assert 1e-4 <= system.train.learning_rate <= 1e-2
    assert 2 <= system.train.batch_size <= 9
    inner = {f"frontend.loss[1].{name}" for name in ("n_subclusters", "trainable")}
    assert (inner <= set(asked.names)) == (sample["frontend.loss"]["name"] == "subcluster_adacos")
    assert json.loads(json.dumps(sample)) == sample


def test_corners_show_every_value_also_of_members_inside_members():
    found = corners(SPACE)
    losses = [json.dumps(s["frontend.loss"], sort_keys=True) for s in found]
    assert any('"n_subclusters": 16' in text for text in losses)
    assert any('"trainable": false' in text for text in losses)
    assert {s["train.batch_size"] for s in found} == {2, 9}
    rates = {s["train.learning_rate"] for s in found}
    assert {1e-4, 1e-2} <= rates
    assert len(rates) == 3


def test_a_list_inside_an_object_is_no_choice():
    space = {"frontend": [{"name": "x", "kernels": [3, 5], "heads": [{"size": {"choice": [1, 2]}}]}]}
    check_axis(space["frontend"], "space")
    assert draw(space, Fixed([0.0, 0.9]))["frontend"] == {
        "name": "x",
        "kernels": [3, 5],
        "heads": [{"size": 2}],
    }


# --------------------------------------------------------------------------------------------- the studies


@pytest.fixture(scope="module")
def year(tmp_path_factory):
    data = tmp_path_factory.mktemp("year")
    build_year(data)
    return data


@pytest.fixture
def places(year, tmp_path):
    return Places.of(year, tmp_path / "results")


def studies_of(tmp_path, places, *, only_read=False, **changes):
    """Studies of a sweep over the tiny year; each call is a new process's view of the same file."""
    changes = {"machines": {DCASE: list(MACHINES)}, **changes}
    sweep = load_sweep(write(tmp_path, **changes))
    datasets = {name: load_dataset(places.data, DCASE) for name in sweep.years}
    return Studies(sweep, places, datasets, "test", write=not only_read)


def landscape(sample):
    """An objective without training, best at a learning rate of 0.001."""
    return -abs(np.log10(sample.swept["train.learning_rate"]) + 3)


def play(studies, n=100):
    """Asks and tells up to n samples, one after the other."""
    while studies.to_ask and n:
        sample = studies.ask()
        if sample.state == "open":
            studies.tell(sample, "done", landscape(sample), "knn-1")
        n -= 1
    return [(s.recipe, s.number, s.swept, s.state, s.value) for s in studies.samples]


@pytest.mark.parametrize("search", [
    {"algorithm": "random"},
    {},
    {"sampler": {"name": "TPE", "options": {"n_startup_trials": 2}}},
    {"sampler": {"name": "CmaEs", "options": {"n_startup_trials": 2}}},
    {"sampler": {"name": "GP", "options": {"n_startup_trials": 2}}},
    {"sampler": {"name": "NSGAII", "options": {"population_size": 2}}},
    {"sampler": "QMC"},
])  # fmt: skip
def test_a_resumed_search_goes_on_as_an_undisturbed_one(tmp_path, year, search):
    search = {**SEARCH, "num_samples": 7, **search}
    calm = play(studies_of(tmp_path, Places.of(year, tmp_path / "calm"), search=search))
    places = Places.of(year, tmp_path / "rough")
    play(studies_of(tmp_path, places, search=search), 3)
    open_ = studies_of(tmp_path, places, search=search).ask()
    # Killed: the fourth is open, and another process wrote half a line.
    path = sweep_dir(places.results, "hunt") / "study.journal"
    path.write_bytes(path.read_bytes() + b'{"op_code":4,"wor')
    again = studies_of(tmp_path, places, search=search)
    (found,) = [s for s in again.samples if s.state == "open"]
    assert (found.number, found.swept, found.system) == (3, open_.swept, open_.system)
    again.tell(found, "done", landscape(found), "knn-1")
    assert play(again) == calm
    assert again.complete
    assert len({str(swept) for _, _, swept, _, _ in calm}) == 7
    assert play(studies_of(tmp_path, places, search={**search, "num_samples": 9}))[:7] == calm


def test_the_seed_decides_and_every_recipe_has_its_own_study(tmp_path, year):
    def swept(name, **changes):
        found = play(studies_of(tmp_path, Places.of(year, tmp_path / name), **changes))
        return [(recipe, values) for recipe, _, values, _, _ in found]

    one = {"search": {**SEARCH, "num_samples": 3}}
    assert swept("a", **one) == swept("b", **one)
    assert swept("c", search={**SEARCH, "num_samples": 3, "seed": 1}) != swept("a", **one)
    both = swept("d", recipes={"dis_baseline": None, "ae_baseline": None}, **one)
    assert [recipe for recipe, _ in both] == ["ae_baseline", "dis_baseline"] * 3
    assert [pair for pair in both if pair[0] == "dis_baseline"] == swept("a", **one)


def test_a_system_that_was_met_before_costs_nothing(tmp_path, places):
    studies = studies_of(
        tmp_path,
        places,
        space={"train.learning_rate": [1e-3, 1e-4]},
        search={**SEARCH, "algorithm": "random", "num_samples": 8},
    )
    open_ = []
    while studies.to_ask:
        sample = studies.ask()
        if sample.state == "open":
            open_.append(sample)
    assert len(studies.systems()) == 2
    studies.tell(open_[0], "done", 0.5, "knn-1")
    same = [s for s in studies.samples if s.swept == open_[0].swept]
    assert len(same) > 1
    assert {(s.state, s.value) for s in same} == {("done", 0.5)}
    assert not studies.complete


def test_a_search_over_backends_alone_has_one_system_and_chooses_among_them(tmp_path, places):
    search, jobs, ask = driver(
        tmp_path,
        places,
        space=None,
        backends=[{"name": "knn", "n_neighbors": [1, 2]}],
        confirm={"seeds": [5]},
    )
    ((index, _),) = ask()
    assert "backend" in selection.confirmed_rows(search.studies), "also while nothing is chosen"
    names = [backend_id(b) for b in jobs[index].backends]
    sample = search.ended(index, {"values": dict(zip(names, (0.5, 0.6), strict=True)), "reason": None}, False)
    assert (sample.value, sample.backend) == (0.6, names[1])
    confirming = ask()
    assert [jobs[i].trial.seed for i, _ in confirming] == [5]
    assert search.exhausted
    rows = selection.confirmed_rows(search.studies)
    assert rows[["seed", "backend"]].to_numpy().tolist() == [[5, names[1]]]
    assert selection.selected_by(search.studies) == {"dis_baseline": "official_dev (search, 1 systems)"}


def test_rank_correlation_is_spearmans_and_null_where_it_says_nothing():
    assert selection.rank_correlation([0.1, 0.2, 0.4, 0.3], [1, 2, 9, 3]) == pytest.approx(1)
    assert selection.rank_correlation([0.1, 0.2, 0.3], [3, 2, 1]) == pytest.approx(-1)
    assert selection.rank_correlation([0.1, 0.2], [1, 2]) is None
    assert selection.rank_correlation([0.1, 0.1, 0.1], [1, 2, 3]) is None


def test_selection_csv_has_the_rank_correlation_of_each_recipe_over_its_judged_rows():
    scores = {  # recipe -> system -> dev, eval of the judged backend; the other one would correlate by -1
        "a": [(0.5, 0.6), (0.6, 0.5), (0.7, 0.7), (0.8, None)],
        "b": [(0.5, 0.5), (0.6, 0.6)],
    }
    samples, rows = [], {"dev": [], "eval": []}
    for recipe, pairs in scores.items():
        for i, (dev, eval_) in enumerate(pairs):
            system = f"{recipe}{i}"
            samples.append(SimpleNamespace(
                recipe=recipe, number=i, state="done", system_name=system, backend="knn", value=dev,
            ))  # fmt: skip
            for backend, sign in (("knn", 1), ("other", -1)):
                for subset, value in (("dev", dev), ("eval", eval_ and sign * eval_)):
                    rows[subset].append({
                        "system": system, "backend_id": backend, "checkpoint": "last", "options": "", "backend": backend,
                        "n": int(value is not None), "n_expected": 1, "total_mean": value,
                    })  # fmt: skip
    studies = SimpleNamespace(
        recipes=list(scores),
        ranked=lambda recipe=None: [s for s in samples if recipe in (None, s.recipe)],
        systems=lambda: samples,
        chosen=list,
        objective=SimpleNamespace(checkpoint="last"),
    )
    frame = selection._frame(studies, {(DCASE, k): pd.DataFrame(v) for k, v in rows.items()})
    found = {recipe: set(own["dev_eval_correlation"]) for recipe, own in frame.groupby("recipe")}
    assert found["a"] == {0.5}, "places 1, 2, 3 by dev are 2, 1, 3 by eval; without a system that lacks eval"
    assert len(frame) == 12
    assert frame.loc[frame["recipe"] == "b", "dev_eval_correlation"].isna().all(), "two systems say nothing"


def test_what_is_no_system_fails_alone_and_says_why(tmp_path, places):
    # Each alone fits the other's first value; together they do not.
    changes = {
        "recipes": {
            "dis_baseline": {"set": {"frontend.branches": [SMALL_FFT, {"name": "stft", "n_fft": 256}]}}
        },
        "space": {"audio.duration": [4.0, 0.2], "frontend.branches.1.hop_length": [16, 128]},
        "search": {**SEARCH, "sampler": "BruteForce", "num_samples": 4},
    }
    studies = studies_of(tmp_path, places, **changes)
    while studies.to_ask:
        sample = studies.ask()
        if sample.state == "open":
            studies.tell(sample, "done", 0.5, "knn-1")
    (failed,) = [s for s in studies.samples if s.state == "failed"]
    assert failed.swept == {"audio.duration": 0.2, "frontend.branches.1.hop_length": 128}
    assert "stft branch" in failed.reason
    again = studies_of(tmp_path, places, **changes)
    assert [s.state for s in again.samples] == [s.state for s in studies.samples]
    assert len(known_jobs(again)) == 3


def test_what_failed_is_tried_again_where_that_can_help_or_is_asked_for(tmp_path, places):
    changes = {
        "search": {
            **SEARCH,
            "max_concurrent": None,
            "num_samples": 3,
            "sampler": {"name": "TPE", "options": {"n_startup_trials": 2}},
        }
    }
    studies = studies_of(tmp_path, places, **changes)
    first, second, third = (studies.ask() for _ in range(3))
    studies.tell(first, "done", landscape(first), "knn-1")
    for sample in (second, third):
        studies.tell(sample, "failed", reason="a training failed")
    assert studies.complete
    jobs = known_jobs(studies)
    # Of the second all is done, so that it has no value though nothing broke; the third's training broke.
    finish(jobs[1], studies.sweep, places)
    event = failed(event_of(jobs[2].trial, "train", unit="all"), "the loss is nan", lasting=True)
    steps = jobs[2].steps(studies.sweep, places)
    lasting = {event_key(jobs[2].trial, step): event for step in steps if step.stage == "train"}

    def opened(failures, retry_failed=False):
        search, _ = open_search(studies.sweep, places, failures, retry_failed)
        return search, [s.number for s in search.studies.samples if s.state == "open"]

    assert opened(lasting)[1] == [], "it would fail again"
    assert opened({})[1] == [2], "a lost worker, for example: not at all the same next time"
    search, again = opened(lasting, retry_failed=True)
    assert again == [1, 2]
    found = search.next(0, 4, [*known_jobs(search.studies)], pytest.fail)
    assert [(index, sample.number) for index, sample in found] == [(1, 1), (2, 2)]
    search.ended(1, {"values": {"knn-1": 0.25}, "reason": None}, False)
    search.ended(2, None, False)
    outcomes = [(s.state, s.value, s.reason) for s in search.studies.samples]
    assert outcomes == [
        ("done", landscape(first), None),
        ("done", 0.25, None),
        ("failed", None, "a training failed"),
    ]
    read = studies_of(tmp_path, places, only_read=True, **changes)
    assert [(s.state, s.value, s.reason) for s in read.samples] == outcomes
    assert [s.swept for s in read.samples] == [s.swept for s in studies.samples]
    assert [s.number for s in read.ranked()] == [1, 0]
    # Samplers know of the second's value, and there are as many samples as were asked for.
    more = studies_of(tmp_path, places, search={**changes["search"], "num_samples": 4})
    assert more.to_ask == 1
    (study,) = more.studies.values()
    assert sorted(t.value for t in study.trials if t.value is not None) == sorted([landscape(first), 0.25])
    assert more.ask().number == 4


def test_what_a_scheduler_stopped_is_not_left_to_do():
    counts = StageCounts(expected=5, before=1, new=1, complete=2, given_up=1)
    assert counts.text(failures=1) == "1 already done, 1 done now, 1 stopped early, 1 failed, 1 left"


def test_the_estimate_takes_in_the_systems_not_sampled_yet(tmp_path, places):
    changes = {
        "seeds": [0, 1],
        "umap": False,
        "search": {**SEARCH, "num_samples": 5},
        "confirm": {"top_k": 2, "seeds": [5]},
        "scheduler": "asha",
    }
    sweep = studies_of(tmp_path, places, only_read=True, **changes).sweep

    def lines():
        studies = studies_of(tmp_path, places, only_read=True, **changes)
        return plan_lines(sweep, known_jobs(studies), places)

    assert lines()[-1] == "no estimate of time and disk yet: nothing like it is finished"
    studies = studies_of(tmp_path, places, **changes)
    first, second = studies.ask(), studies.ask()
    jobs = known_jobs(studies)
    for job in jobs:
        recipe, _, rate = job.trial.label.partition(" lr=")
        wanted = job.swept["train.learning_rate"]
        assert (recipe, float(rate)) == (job.trial.recipe, pytest.approx(wanted, rel=0.005))
        assert len(rate) <= 7
    for job in jobs[:2]:
        finish(job, sweep, places, seconds=600)
    studies.tell(first, "done", 0.5, "knn-1")
    # 2 trials of the second system, 3 x 2 of the systems to come, 2 x 1 that confirm: 600 s for each training.
    assert lines()[-1].startswith("about 1 h 40 min of training and ")
    assert "without" not in lines()[-1]
    studies.tell(second, "stopped")
    assert lines()[-1].startswith("about 80 min of training and ")
    assert f"{jobs[2].trial.title}: stopped by the scheduler" in lines()
    search = SearchRun(studies)
    estimator = Estimator()
    for i, job in enumerate(jobs[:2]):
        estimator.add_trial(i, job.trial, job.dataset, job.steps(sweep, places))
    estimator.upcoming = [*search.upcoming, UpcomingSystems("search", "ae_baseline", 4, 2)]
    left = estimator.estimate()
    assert (left.train_seconds, left.unknown_systems) == (pytest.approx(8 * 600, rel=0.01), 4)
    snapshot = Progress("hunt", [SimpleNamespace(status="done", progress={})], estimator).snapshot()
    assert trials_line(snapshot).startswith("1 of 1 trials done, 7 systems to come, 2 to confirm; about ")
    assert trials_line(snapshot).endswith(" left without the 4 systems to come")
    console = Console(width=200)
    with console.capture() as captured:
        console.print(status(sweep, jobs, places))
    assert "2 done, 2 stopped of 4 trials, 3 systems to come, 2 to confirm" in captured.get()


def test_another_objective_is_another_study_and_reading_writes_nothing(tmp_path, places):
    assert studies_of(tmp_path, places, only_read=True).samples == []
    assert not places.results.exists()
    play(studies_of(tmp_path, places))
    folder = sweep_dir(places.results, "hunt")
    (folder / "sweep.yaml").write_text((tmp_path / "sweep.yaml").read_text())
    before = contents(folder)
    assert len(studies_of(tmp_path, places, only_read=True).samples) == 4
    # Also what another objective or other backends would find, and while the folder cannot be written.
    other = {"search": {**SEARCH, "objective": "train_loss"}}
    assert studies_of(tmp_path, places, only_read=True, **other).samples == []
    assert studies_of(tmp_path, places, only_read=True, backends=["knn", "gmm"]).samples == []
    assert contents(folder) == before
    assert studies_of(tmp_path, places, **other).samples == []
    # To go on with what is there writes nothing either before something is asked.
    before = contents(folder)
    assert len(studies_of(tmp_path, places).samples) == 4
    assert contents(folder) == before


def test_only_the_last_line_of_a_study_can_be_torn(tmp_path, places):
    play(studies_of(tmp_path, places))
    path = SweepDir(sweep_dir(places.results, "hunt")).study
    path.with_name("study.journal.sha256").unlink()  # as in earlier versions
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":4,"wor{"op_code":4}\n')  # written again when the file was closed
    assert len(studies_of(tmp_path, places).samples) == 4
    assert path.read_bytes() == whole
    path.write_bytes(whole + b'{"op_code":4,"wor\n{"op_code":4,"wor\n')
    with pytest.raises(ValueError, match=r"study\.journal is damaged \(.*\): move it away"):
        studies_of(tmp_path, places)


def test_a_study_that_lacks_an_outcome_is_damaged(tmp_path, places):
    play(studies_of(tmp_path, places))
    path = SweepDir(sweep_dir(places.results, "hunt")).study
    path.with_name("study.journal.sha256").unlink()  # as in earlier versions
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if '"sample 3"' not in line))
    with pytest.raises(ValueError, match=r"study\.journal is damaged \('sample 3'\): move it away"):
        studies_of(tmp_path, places, only_read=True)


def contents(folder):
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}


def test_studies_are_what_optuna_dashboard_opens(tmp_path, places):
    play(studies_of(tmp_path, places, recipes={"dis_baseline": None, "ae_baseline": None}))
    journal = optuna.storages.journal.JournalFileBackend(
        str(SweepDir(sweep_dir(places.results, "hunt")).study)
    )
    found = optuna.get_all_study_summaries(optuna.storages.JournalStorage(journal))
    names = {s.study_name.split("-")[0]: s.n_trials for s in found}
    assert names == {"dis_baseline": 4, "ae_baseline": 4}
    assert all(s.direction.name == "MAXIMIZE" and s.best_trial.value is not None for s in found)


KNN = {"name": "knn", "n_neighbors": 1}
BACKEND_FREE = [{"metric": "official_dev", "backend": KNN}, "train_loss", "compactness"]


@pytest.mark.parametrize("objective", BACKEND_FREE)
def test_a_backend_more_changes_no_study_that_reads_none_of_it(tmp_path, places, objective):
    search = {**SEARCH, "objective": objective}
    outcomes = play(studies_of(tmp_path, places, search=search, backends=[KNN]))
    more = studies_of(tmp_path, places, search=search, backends=["gmm", KNN])
    assert (play(more, 0), more.complete) == (outcomes, True)


def test_where_the_best_backend_judges_other_backends_are_another_study(tmp_path, places):
    search = {**SEARCH, "algorithm": "random"}
    first = studies_of(tmp_path, places, backends=["knn"], search=search)
    outcomes = play(first, 2)
    for only_read in (True, False):
        assert (
            studies_of(tmp_path, places, backends=["knn", "gmm"], search=search, only_read=only_read).samples
            == []
        )
    more = studies_of(tmp_path, places, backends=["knn", "gmm"], search=search)
    systems = [more.ask().system for _ in range(2)]
    assert systems == [s.system for s in first.samples], "with the same seed the same systems, found trained"
    back = studies_of(tmp_path, places, backends=["knn"], search=search)
    assert play(back, 0) == outcomes


@pytest.mark.parametrize("objective", ["official_dev", *BACKEND_FREE])
def test_a_study_by_its_earlier_name_goes_on(tmp_path, places, monkeypatch, objective):
    search = {**SEARCH, "objective": objective}
    with monkeypatch.context() as before:
        before.setattr(study, "study_names", lambda *args: (study_names(*args)[1],) * 2)
        outcomes = play(studies_of(tmp_path, places, search=search, backends=[KNN]))
    for only_read in (True, False):
        now = studies_of(tmp_path, places, search=search, backends=[KNN], only_read=only_read)
        assert play(now, 0) == outcomes


def test_a_search_chooses_its_trials_itself(tmp_path, places, asdray):
    path = write(tmp_path, machines={DCASE: list(MACHINES)})
    code, _, err = asdray(
        "sweep", path, "--data", places.data, "--results", places.results, "--only", "seed=0"
    )
    assert code == 2
    assert "--only chooses among the trials of a grid" in err
    assert not places.results.exists()


@pytest.mark.parametrize("objective", ["official_dev", "train_loss"])
def test_clips_that_a_value_is_made_of_are_part_of_a_study_and_what_is_said_of_eval_clips_is_not(
    tmp_path, places, objective
):
    sweep = load_sweep(
        write(tmp_path, machines={DCASE: list(MACHINES)}, search={**SEARCH, "objective": objective})
    )
    dataset = load_dataset(places.data, DCASE)

    def samples(machine=None, **other):
        machines = {**dataset.machines}
        if machine:
            machines[machine] = dataclasses.replace(machines[machine], **other)
        now = dataclasses.replace(dataset, machines=machines)
        return len(Studies(sweep, places, {DCASE: now}, "test", write=True).samples)

    Studies(sweep, places, {DCASE: dataset}, "test", write=True).ask()
    assert samples() == 1
    for machine in MACHINES:
        assert samples(machine, labels="others", classes="others", label_sources=()) == 1
        assert samples(machine, train="others") == 0
        judged = objective == "official_dev" and machine != "bandsaw"
        assert samples(machine, test="others") == (0 if judged else 1)


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ("TEP", "search.sampler is 'TEP'; did you mean 'TPE'?"),
        ("tep", "search.sampler is 'tep'; did you mean 'TPE'?"),
        ("grid", "search.sampler is 'grid'"),
        ({"name": "TPE", "options": {"n_startup": 3}}, "TPE has no 'n_startup'; did you mean 'n_startup_trials'?"),
    ],
)  # fmt: skip
def test_an_unknown_sampler_is_said_before_anything_runs(tmp_path, places, sampler, message):
    with pytest.raises(ValueError) as caught:
        studies_of(tmp_path, places, search={**SEARCH, "sampler": sampler}, only_read=True)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "sampler",
    [
        {"name": "tpe", "options": {"multivariate": True, "n_startup_trials": "x"}},
        {"name": "TPE", "options": {"n_startup_trials": 1, "gamma": 3}},
        "brute-force",
    ],
)
def test_an_error_of_optuna_during_a_suggestion_is_one_line_with_the_axis(tmp_path, places, sampler):
    changes = {"search": {**SEARCH, "sampler": sampler}}
    with pytest.raises(ValueError) as caught:
        play(studies_of(tmp_path, places, **changes))
    name = "BruteForce" if sampler == "brute-force" else "TPE"
    assert str(caught.value).startswith(f"test: search.sampler: {name} cannot suggest train.learning_rate (")
    assert "\n" not in str(caught.value)
    # With another sampler the same study goes on.
    assert len(play(studies_of(tmp_path, places))) == 4


@pytest.mark.parametrize(
    ("spelled", "name"),
    [("tpe", "TPE"), ("CMA-ES", "CmaEs"), ("cmaes", "CmaEs"), ("gp", "GP"), ("nsga2", "NSGAII"), ("NSGA-III", "NSGAIII"), ("QMCSampler", "QMC")],
)  # fmt: skip
def test_a_sampler_is_known_in_whatever_spelling(tmp_path, places, spelled, name):
    one, other = (
        play(studies_of(tmp_path, Places.of(places.data, tmp_path / sampler), search={**SEARCH, "sampler": sampler}), 2)
        for sampler in (spelled, name)
    )  # fmt: skip
    assert one == other


# ------------------------------------------------------------------------------------ the trials to run next


def driver(tmp_path, places, **changes):
    """A search with the driver's list of jobs."""
    studies = studies_of(tmp_path, places, **changes)
    jobs = list(known_jobs(studies))
    search = SearchRun(studies)

    def add(job: Job) -> int:
        jobs.append(job)
        return len(jobs) - 1

    return search, jobs, lambda busy=0: search.next(busy, 4, jobs, add)


def test_a_sample_has_an_outcome_once_all_its_trials_ended_and_confirmation_follows(tmp_path, places):
    search, jobs, ask = driver(
        tmp_path, places, seeds=[0, 1], confirm={"top_k": 1, "seeds": [5, 6]},
        search={**SEARCH, "num_samples": 3, "max_concurrent": 2},
    )  # fmt: skip
    first = ask()
    assert [(jobs[i].trial.seed, sample.number) for i, sample in first] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert ask() == []
    assert search.ended(first[0][0], {"values": {"a": 0.5, "b": 0.9}, "reason": None}, False) is None
    ended = search.ended(first[1][0], {"values": {"a": 0.7, "b": None}, "reason": None}, False)
    assert (ended.number, ended.state, ended.value, ended.backend) == (0, "done", pytest.approx(0.6), "a")
    third = ask()
    assert [sample.number for _, sample in third] == [2, 2]
    search.ended(first[2][0], None, True)
    assert search.ended(first[3][0], {"values": {"a": 0.9}, "reason": None}, False).state == "stopped"
    search.ended(third[0][0], {"values": {}, "reason": "extract fan: it broke"}, False)
    assert not search.exhausted
    failed = search.ended(third[1][0], {"values": {"a": 0.9}, "reason": None}, False)
    assert (failed.state, failed.reason) == ("failed", "extract fan: it broke")
    confirming = ask()
    assert [jobs[i].trial.seed for i, _ in confirming] == [5, 6]
    assert {jobs[i].trial.system.id for i, _ in confirming} == {jobs[first[0][0]].trial.system.id}
    assert search.exhausted
    assert ask() == []

    again, jobs, ask = driver(
        tmp_path, places, seeds=[0, 1], confirm={"top_k": 1, "seeds": [5, 6]},
        search={**SEARCH, "num_samples": 3, "max_concurrent": 2},
    )  # fmt: skip
    assert again.exhausted
    assert ask() == []
    assert [job.part for job in jobs] == ["search"] * 6 + ["confirm"] * 2
    assert [again.is_given_up(job) for job in jobs] == [False] * 2 + [True] * 4 + [False] * 2


def test_without_a_limit_every_place_for_a_training_is_kept_busy(tmp_path, places):
    search, jobs, ask = driver(tmp_path, places, search={**SEARCH, "max_concurrent": None})
    assert len(ask(busy=0)) == 4
    assert len(jobs) == 4
    search, jobs, ask = driver(tmp_path, places)
    resumed = search.open_trials(jobs)
    assert resumed == {0, 1, 2, 3}, "open since the last run"
    assert {i for i, _ in ask(busy=0)} <= resumed


def test_two_spellings_of_a_system_are_trained_once_and_take_one_place(tmp_path, places):
    search, _, ask = driver(
        tmp_path,
        places,
        space={"frontend.loss": [{"name": "adacos"}, {"name": "adacos", "dynamic": False}]},
        search={**SEARCH, "algorithm": "random", "num_samples": 12, "max_concurrent": 3},
    )
    ((index, _),) = ask()
    assert len({str(s.swept) for s in search.studies.samples}) == 2
    search.ended(index, {"values": {"knn-1": 0.5}, "reason": None}, False)
    assert {(s.state, s.value) for s in search.studies.samples} == {("done", 0.5)}
    assert ask() == []
    assert search.exhausted


def test_the_backend_that_suits_a_system_best_decides():
    assert best_mean([{"a": 1.0, "b": 3.0}, {"a": 2.0, "b": 1.0}], True) == ("b", 2.0)
    assert best_mean([{"a": 1.0, "b": 3.0}, {"a": 2.0, "b": 1.0}], False) == ("a", 1.5)
    assert best_mean([{"a": 1.0, "b": 3.0}, {"a": 2.0, "b": None}], True) == ("a", 1.5)
    assert best_mean([{"a": None}], True) is None


# ------------------------------------------------------------------------------------------- the schedulers


@dataclasses.dataclass(frozen=True, eq=False)
class TuneTrial:
    config: dict
    trial_id: str


def epochs_of(scheduler, losses, dcase=DCASE, number=0, seed=0, sample=True):
    """Reports the losses of a trial epoch by epoch, as Tune would; returns the epoch of the stop, None without."""
    system = System(frontend=BASE.system.frontend, train=Train(epochs=len(losses)))
    trial = Trial(dcase, "dis", system, seed, get_year(dcase).all_machines)
    work = Assignment(trial, f"dis sample {number}" if sample else None, number)
    one = TuneTrial({"assignment": work}, f"{number} {dcase} {seed} {sample}")
    scheduler.on_trial_add(None, one)
    for epoch, loss in enumerate(losses, 1):
        # What Tune adds to each result; reports without an epoch are none of a scheduler's business.
        assert scheduler.on_trial_result(None, one, {"events": []}) == "CONTINUE"
        result = {EPOCHS_DONE: epoch, TRAIN_LOSS: loss}
        if scheduler.on_trial_result(None, one, result) == "STOP":
            scheduler.on_trial_complete(None, one, result)
            return epoch
    scheduler.on_trial_complete(None, one, {"ended": True})
    return None


@pytest.mark.parametrize("options", [
    Asha(grace_period=2, reduction_factor=2),
    HyperBand(grace_period=2, reduction_factor=2, brackets=1),
    Median(grace_period=2, min_samples=1),
])  # fmt: skip
def test_a_scheduler_stops_what_is_worse_than_others_of_its_year_and_nothing_else(options):
    scheduler = GroupScheduler(options)
    assert epochs_of(scheduler, [1.0] * 8) is None
    assert epochs_of(scheduler, [3.0] * 8, number=1) == 2
    assert epochs_of(scheduler, [0.1] * 8, number=1, seed=1) == 1, "its sample is out"
    assert epochs_of(scheduler, [0.9] * 8, number=2) is None
    assert epochs_of(scheduler, [9.0] * 8, dcase="dcase2022", number=2) is None, "the first of its year"
    assert epochs_of(scheduler, [9.0] * 8, number=3, sample=False) is None, "a confirmation is never stopped"
    siblings = GroupScheduler(options)
    assert epochs_of(siblings, [1.0] * 8) is None
    assert epochs_of(siblings, [9.0] * 8, seed=1) is None, "seeds of one system do not compete"
    last = GroupScheduler(options)
    assert epochs_of(last, [1.0, 1.0]) is None
    assert epochs_of(last, [3.0, 3.0], number=1) is None, "at its last epoch it is complete"


def test_hyperbands_brackets_wait_longer_and_longer():
    scheduler = GroupScheduler(HyperBand(grace_period=1, reduction_factor=2, brackets=3))
    for number in range(3):
        assert epochs_of(scheduler, [1.0] * 16, number=number) is None
    assert [epochs_of(scheduler, [3.0] * 16, number=n) for n in (3, 4, 5)] == [1, 2, 4]


# ------------------------------------------------------------------------------------------- the objectives


@given(st.integers(0, 1000), st.floats(0.1, 10))
def test_compactness_is_the_definition_and_sees_neither_scale_nor_order(seed, scale):
    rng = np.random.default_rng(seed)
    clips = {m: rng.normal(size=(n, 4)).astype(np.float32) for m, n in (("fan", 5), ("valve", 3))}
    found = objective.compactness(clips)
    every = np.concatenate([v / np.linalg.norm(v, axis=1, keepdims=True) for v in clips.values()]).astype(
        float
    )
    pairs = [1 - a @ b for i, a in enumerate(every) for j, b in enumerate(every) if i != j]
    own = every[:5]
    nearest = [min(1 - own[i] @ own[j] for j in range(5) if i != j) for i in range(5)]
    assert found["fan"] == pytest.approx(np.mean(nearest) / np.mean(pairs), abs=1e-6)
    mixed = {m: np.float32(scale) * v[rng.permutation(len(v))] for m, v in clips.items()}
    again = objective.compactness(mixed)
    assert again == {m: pytest.approx(value, abs=1e-5) for m, value in found.items()}


def test_what_is_drawn_to_one_point_gains_nothing_and_a_point_is_refused():
    rng = np.random.default_rng(0)
    spread = rng.normal(size=(20, 8))
    near = rng.normal(size=8) + 0.01 * spread
    loose, tight = (objective.compactness({"fan": v.astype(np.float32)})["fan"] for v in (spread, near))
    assert abs(loose - tight) < 0.3
    grouped = np.repeat(rng.normal(size=(2, 8)), 10, axis=0) + 0.01 * spread
    assert objective.compactness({"fan": grouped.astype(np.float32)})["fan"] < 0.01
    with pytest.raises(ValueError, match="are the same"):
        objective.compactness({"fan": np.ones((5, 3), np.float32)})
