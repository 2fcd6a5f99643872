"""Nothing that a search or a scheduler sees depends on what the ground truth says of eval clips.

A search with trainings that learn is played with the true labels, domains and attributes of the eval test
clips, with wrong ones, and with none. Before it, what every value is made of is compared byte by byte.
"""

import dataclasses
import shutil

import pandas as pd
import pytest
import yaml
from small_recipes import changes
from trees import build_tree, write_evaluator

from asdray import store
from asdray.audio.cache import pack_of
from asdray.config.expand import load_sweep
from asdray.dcase.format import format_dataset
from asdray.dcase.manifest import load_dataset, load_manifest, rows
from asdray.stages.columns import training_columns
from asdray.store import Places, trial_dir
from asdray.sweep import objective, training_worker
from asdray.sweep.search import best_mean
from asdray.sweep.study import Studies
from asdray.sweep.training_worker import EPOCHS_DONE, TRAIN_LOSS, Assignment, WorkerOptions

DCASE, MACHINES = "dcase2022", ("fan", "valve")
"""In 2022 every machine has clips of both subsets, and their labels lie in the same files."""

OBJECTIVES = ("official_dev", "train_loss", "compactness")
PSEUDO_LABELS = {
    "frontend.classes": [
        "machine",
        "section",
        "attributes",
        "domain",
        {"from": "raw_spec", "n": 2, "only": "all"},
    ]
}
TRUTHS = ("true", "wrong", "none")
CLOCKS = {"time", "seconds", "per_second"}


def told_wrong(clip):
    """Other labels, domains and attributes than the true ones; a section without a normal clip."""
    return dataclasses.replace(
        clip,
        is_anomaly=clip.section == 3 or not clip.is_anomaly,
        domain="source" if clip.domain == "target" else "target",
        attributes=f"vel_{clip.index}_other",
    )


def sweep_of(folder, metric):
    spec = {
        "name": f"by_{metric}",
        "recipes": {"dis_baseline": {"set": {**changes("dis_baseline"), **PSEUDO_LABELS, "train.epochs": 2}}},
        "space": {"train.learning_rate": {"loguniform": [1e-4, 1e-2]}},
        "dcase": [DCASE],
        "seeds": [0],
        "machines": {DCASE: list(MACHINES)},
        "backends": ["knn", {"name": "knn", "smote_ratio": 0.5, "smote_neighbors": 1}],
        "search": {
            "algorithm": "optuna",
            "num_samples": 2,
            "objective": metric,
            "sampler": {"name": "TPE", "options": {"n_startup_trials": 1}},
        },
        "scheduler": "asha",
    }
    path = folder / f"{metric}.yaml"
    path.write_text(yaml.safe_dump(spec))
    return load_sweep(path)


def without_clocks(report):
    """A report as it would be on a machine on which everything takes equally long."""
    if isinstance(report, dict):
        return {k: without_clocks(v) for k, v in report.items() if k not in CLOCKS}
    return [without_clocks(v) for v in report] if isinstance(report, list) else report


@dataclasses.dataclass
class Played:
    """Everything that one search by one objective read."""

    reports: list
    verdict: dict
    next: dict
    """The sampler's next suggestion after the first value."""


def play(sweep, places, dataset, monkeypatch):
    """The first sample of a search, as a worker trains and judges it, and the suggestion after it."""
    reports = []
    # All that leaves a worker for the scheduler and the driver goes through here.
    monkeypatch.setattr(training_worker.tune, "report", reports.append)
    judge = training_worker.Judge.of(sweep)
    studies = Studies(sweep, places, {DCASE: dataset}, "test", write=True)
    sample = studies.ask()
    (trial,) = studies.trials(sample)
    config = {"assignment": Assignment(trial, sample.name)}
    training_worker.train_job(config, {}, WorkerOptions(places, ("last",), judge=judge))
    (verdict,) = [r["judged"] for r in reports if "judged" in r]
    assert verdict["reason"] is None
    backend, value = best_mean([verdict["values"]], judge.objective.maximize)
    studies.tell(sample, "done", value, backend)
    return trial, Played(reports, verdict, studies.ask().swept)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Per truth: what the training may read, what each search saw, and the files of the trial."""
    root = tmp_path_factory.mktemp("leak")
    tree = build_tree(
        root / "data", DCASE, list(MACHINES), {"source": 3, "target": 1}, per_cell=2, n_samples=8000
    )
    found = {}
    with pytest.MonkeyPatch.context() as monkeypatch:
        for truth in TRUTHS:
            shutil.rmtree(tree.ground_truth, ignore_errors=True)
            if truth != "none":
                said = {k: told_wrong(c) if truth == "wrong" else c for k, c in tree.truth.items()}
                write_evaluator(dataclasses.replace(tree, truth=said))
            format_dataset(tree.data, DCASE)
            dataset = load_dataset(tree.data, DCASE)
            places = Places.of(tree.data, root / truth)
            columns = training_columns(places, [pack_of(places, dataset, m, "train") for m in MACHINES])
            played = {}
            for metric in OBJECTIVES:
                trial, played[metric] = play(sweep_of(root, metric), places, dataset, monkeypatch)
            folder = trial_dir(places.results, trial).root
            files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
            test = rows(load_manifest(tree.data, DCASE), split="test", subset="eval")
            labels = test.select(["is_anomaly", "domain", "attributes"]).to_pydict()
            found[truth] = {"columns": columns, "played": played, "files": files, "labels": labels}
            found[truth]["places"], found[truth]["trial"] = places, trial
            paths = sorted(places.results.glob("trials/*/raw_spec-*/**/clusters/*.parquet"))
            found[truth]["clusters"] = [path.read_bytes() for path in paths]
    return found


def test_the_three_truths_are_three(world):
    for column in ("is_anomaly", "domain", "attributes"):
        true, wrong, none = (world[truth]["labels"][column] for truth in TRUTHS)
        assert sum(a != b for a, b in zip(true, wrong, strict=True)) > len(true) / 2, column
        assert not any(none)
    true, wrong, none = (eval_scores(world[truth]["files"]) for truth in TRUTHS)
    assert true != wrong
    assert none == []


def eval_scores(files):
    frame = pd.read_csv(files["output/last/fan/test_evaluate.csv"])
    return frame[(frame["subset"] == "eval") & (frame["metric"] == "mix_auc")]["value"].dropna().tolist()


@pytest.mark.parametrize("truth", TRUTHS[1:])
def test_training_and_scores_are_the_same_bytes(world, truth):
    assert world[truth]["columns"] == world["true"]["columns"]
    assert world["true"]["columns"]["attributes"]
    assert world[truth]["clusters"] == world["true"]["clusters"]
    assert len(world[truth]["clusters"]) == len(MACHINES)
    one, other = (world[t]["files"] for t in ("true", truth))
    made = [
        sorted(n for n in files if n.endswith((".ckpt", "_extract.parquet")) or "/scores/" in n)
        for files in (one, other)
    ]
    assert made[0] == made[1]
    assert len(made[0]) == 1 + 2 * 2 + 2 * 2, "a checkpoint; two machines' embeddings, scores by two backends"
    for name in made[0]:
        assert one[name].read_bytes() == other[name].read_bytes(), name


@pytest.mark.parametrize("truth", TRUTHS[1:])
@pytest.mark.parametrize("metric", OBJECTIVES)
def test_every_objective_and_every_suggestion_is_the_same(world, truth, metric):
    one, other = (world[t]["played"][metric] for t in ("true", truth))
    assert one.verdict == other.verdict
    assert all(isinstance(value, float) for value in one.verdict["values"].values())
    assert one.next == other.next


@pytest.mark.parametrize("truth", TRUTHS[1:])
def test_a_scheduler_hears_the_same(world, truth):
    """It decides by what an epoch reports alone: `asdray.sweep.tune.GroupScheduler` passes over the rest."""
    one, other = (world[t]["played"]["official_dev"].reports for t in ("true", truth))
    epochs = [[without_clocks(r) for r in reports if EPOCHS_DONE in r] for reports in (one, other)]
    assert epochs[0] == epochs[1]
    assert [r[EPOCHS_DONE] for r in epochs[0]] == [1, 2]
    assert all(set(r) == {"epoch", EPOCHS_DONE, TRAIN_LOSS} for r in epochs[0])
    # The rest is what the driver writes down. An evaluation is signed with the labels that it read, a new
    # ground truth being a new evaluation; everything else is equal there too.
    rest = [[without_clocks(r) for r in reports if EPOCHS_DONE not in r] for reports in (one, other)]
    for report in (*rest[0], *rest[1]):
        for event in report.get("events", ()):
            if event["stage"] == "evaluate":
                assert event.pop("signature")
    assert rest[0] == rest[1]


def test_an_objective_reads_no_eval_row(world):
    """Nonsense in the eval rows of an evaluation changes nothing; the same in a dev row is found."""
    places, trial = world["true"]["places"], world["true"]["trial"]
    path = world["true"]["files"]["output/last/fan/test_evaluate.csv"]
    sweep = sweep_of(path.parent, "official_dev")
    before = {file: file.read_bytes() for file in (path, path.parent / "done.json")}
    record = store.read_record(path.parent, "evaluate")
    outputs = [path.parent / name for name in record.outputs]
    frame = pd.read_csv(path, dtype=str)

    def judged(nonsense):
        frame.assign(value=frame["value"].mask(frame["subset"] == nonsense, "?")).to_csv(path, index=False)
        # As the stage itself would record the nonsense: else the file counts as damaged.
        store.finish(
            path.parent, "evaluate", record.signature, outputs=outputs, started=0.0, inputs=record.inputs
        )
        return objective.values(sweep.search.objective, trial, sweep.backends, places)

    try:
        assert judged("eval") == judged("none")
        with pytest.raises(ValueError, match=r"'\?'"):
            judged("dev")
    finally:
        for file, content in before.items():
            file.write_bytes(content)
