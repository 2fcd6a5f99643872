"""A search on a real local Ray, through the command line: killed and resumed, confirmed, stopped early."""

import json
import signal
from collections import Counter

import pandas as pd
import pytest
from marked import marks
from sweeping import ONE_BY_ONE, SMALL_DIS, World, by_hand, make_data, start, wait_for

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("d"))


DIS = {**SMALL_DIS, "train.epochs": 8}
BOTH_LOSSES = [{"name": "adacos"}, {"name": "subcluster_adacos", "n_subclusters": {"randint": [2, 4]}}]


def hunt(**changes):
    return {
        "recipes": {"dis_baseline": {"set": DIS}},
        "machines": {"dcase2023": ["fan", "bandsaw"]},
        "space": {"train.learning_rate": {"loguniform": [1e-4, 1e-2]}, "frontend.loss": BOTH_LOSSES},
        "backends": ["knn", {"name": "knn", "metric": "euclidean"}],
        "search": {"algorithm": "optuna", "num_samples": 3, "objective": "official_dev", "max_concurrent": 1},
        "confirm": {"top_k": 1, "seeds": [10, 11]},
        "resources": ONE_BY_ONE,
        **changes,
    }


def journal(world):
    path = world.folder() / "study.journal"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def outcomes_of(world):
    """Sample -> outcome, from the study file."""
    return {
        key: value
        for line in journal(world)
        if line["op_code"] == 2
        for key, value in line["user_attr"].items()
    }


@pytest.mark.chaos
def test_a_killed_search_goes_on_and_ends_with_what_it_confirmed(data, tmp_path, asdray):
    world = World(data, tmp_path / "results")
    process = start(world, **hunt())
    wait_for(lambda: 0 < len(outcomes_of(world)) < len(suggested(world)), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before, asked = outcomes_of(world), suggested(world)
    assert 0 < len(before) < 3

    run, _ = world.sweep(**hunt())
    events = world.events()
    after = outcomes_of(world)
    assert {key: after[key] for key in before} == before
    assert len(after) == 3
    assert suggested(world)[: len(asked)] == asked
    assert len(suggested(world)) == 3, "an open sample was resumed, not suggested again"
    assert all(e["status"] == "done" for e in events)
    made = [e for e in events if not e["found"] and e["stage"] != "table"]
    done = Counter((e["system"], e["seed"], e["stage"], e["unit"], e["machine"], e["backend"]) for e in made)
    assert max(done.values()) == 1, "a finished stage was repeated"
    trained = [(e["system"], e["seed"]) for e in events if e["stage"] == "train"]
    assert len(trained) == len(set(trained)) == 5, "three systems, and the best one with two fresh seeds"

    selection = pd.read_csv(world.folder() / "selection.csv")
    assert len(selection) == 6
    (selected,) = selection[selection["selected"]].to_dict("records")
    outcomes = [after[f"sample {i}"] for i in range(3)]
    best = max(range(3), key=lambda i: outcomes[i]["value"])
    assert selected["sample"] == best
    assert selected["objective"] == pytest.approx(selected["dev"]) == outcomes[best]["value"]
    assert selected["backend_id"] == outcomes[best]["backend"]
    assert selected["confirmed"]
    assert selection["eval"].max() == selection[selection["oracle"]]["eval"].item()
    judged = selection[selection["judged"]]
    rho = judged["dev"].rank().corr(judged["eval"].rank())
    assert selection["dev_eval_correlation"].tolist() == pytest.approx([rho] * 6, nan_ok=True)

    found = marks(world.results)
    assert found["/sweeps/tiny/selection.csv"]
    assert all(found.values())

    board = pd.read_csv(world.folder() / "leaderboard.csv")
    (ranked,) = board[board["rank"].notna()].to_dict("records")
    assert ranked["system"] == selected["system"]
    assert ranked["selected_by"] == "official_dev (search, 3 systems)"
    assert ranked["dcase2023-eval_n"] == ranked["dcase2023-eval_n_expected"] == 2
    assert {seed for system, seed in trained if system == ranked["system"]} == {0, 10, 11}
    own = board[board["rank"].isna()]
    (best,) = own[own["selected_by"] == "official_dev (in the search); oracle"]["system"]
    assert best == selection[selection["oracle"]]["system"].item()
    assert set(own["selected_by"]) == {"official_dev (in the search)", "official_dev (in the search); oracle"}
    assert "Oracle, the best possible (chosen by eval, never ranked)" in run.stdout
    assert "Spearman" in run.stdout

    code, again, _ = asdray(*world.command(**hunt()))
    assert (code, "trained" in again, world.events()) == (0, False, events)
    plan = asdray(*world.command(**hunt()), "--dry-run")[1]
    assert "3 systems suggested (3 done), 0 to come" in plan
    report = asdray("report", "tiny", "--data", data, "--results", world.results)[1]
    assert "official_dev (search, 3 systems)" in report

    # One more backend: another study.
    more = hunt(backends=[*hunt()["backends"], "mahalanobis"], confirm=None)
    assert "0 systems suggested, 3 to come" in asdray(*world.command(**more), "--dry-run")[1]


@pytest.mark.chaos
def test_another_study_whose_random_start_suggests_the_same_systems_trains_nothing(data, tmp_path, asdray):
    world = World(data, tmp_path / "results")
    world.sweep(**hunt(confirm=None))
    before = (world.folder() / "study.journal").read_bytes()
    more = hunt(backends=[*hunt()["backends"], "mahalanobis"], confirm=None)
    _, new = world.sweep(**more)
    made = [e for e in new if not e["found"]]
    assert {e["backend"].split("-")[0] for e in made if e["stage"] == "score"} == {"mahalanobis"}
    assert not [e for e in made if e["stage"] in ("train", "extract")]
    assert (world.folder() / "study.journal").read_bytes().startswith(before)
    assert "3 systems suggested (3 done), 0 to come" in asdray(*world.command(**more), "--dry-run")[1]


def suggested(world):
    """The suggestions in order."""
    return [line["user_attr"]["swept"] for line in journal(world) if line["op_code"] == 8]


def test_what_a_scheduler_stops_is_not_done_and_a_grid_goes_on_with_it(data, tmp_path, asdray):
    world = World(data, tmp_path / "results")
    # With this seed the large rate comes first; with the small one the loss hardly falls.
    search = {"algorithm": "random", "num_samples": 2, "seed": 4, "objective": "train_loss"}
    search["max_concurrent"] = 1
    space = {"train.learning_rate": [1e-2, 1e-7]}
    scheduler = {"name": "asha", "grace_period": 4, "reduction_factor": 4}
    changes = hunt(search=search, space=space, scheduler=scheduler, confirm=None)
    run, events = world.sweep(**changes)
    stopped = [line for line in run.stdout.splitlines() if "stopped by the scheduler" in line]
    trials = pd.read_parquet(world.folder() / "trials.parquet").set_index("train.learning_rate")
    assert trials["status"].to_dict() == {1e-2: "done", 1e-7: "stopped"}
    assert len(stopped) == 1
    assert "sweep tiny: 2 trials" in run.stdout
    assert "  train    1 done now, 1 stopped early\n" in run.stdout
    board = pd.read_csv(world.folder() / "leaderboard.csv")
    assert board["rank"].isna().all()
    assert "Nothing is ranked" in run.stdout
    folder = world.results / trials.loc[1e-7, "directory"]
    assert list(folder.glob("model/*/checkpoints/last.ckpt"))
    assert not list(folder.glob("model/*/done.json"))
    epochs = len(next(folder.glob("model/*/metrics.csv")).read_text().splitlines()) - 1
    assert 4 <= epochs < 8
    # The same search has nothing left to do.
    assert asdray(*world.command(**changes))[0] == 0
    assert world.events() == events
    status = asdray("status", "tiny", "--data", data, "--results", world.results)[1]
    assert "1 done, 1 stopped of 2 trials" in status
    assert "  train    1 done, 1 stopped\n" in status

    recipes = {"dis_baseline": {"set": {**DIS, "train.learning_rate": 1e-7}}}
    grid = hunt(name="grid", recipes=recipes, space={}, backends=["knn"], search="grid", confirm=None)
    assert "left: 1 trainings" in asdray(*world.command(**grid), "--dry-run")[1]
    by_hand(asdray, world, **grid)
    assert f"goes on after epoch {epochs}\n" in next(folder.glob("model/*/train.log")).read_text()
    assert pd.read_parquet(world.folder("grid") / "trials.parquet")["status"].tolist() == ["done"]
