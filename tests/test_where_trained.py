"""A training's worker with a GPU also extracts; tested on a real Ray, with CPUs in place of the GPU."""

import json
import queue
import subprocess
import sys
from pathlib import Path

import pytest
from finished import snapshot
from tiny import AE, MACHINES, build_year, trial_of

from asdray import limits
from asdray.config.backend import Recon
from asdray.config.sweep import Need, Resources
from asdray.store import Places
from asdray.sweep.cluster import Cluster, ray_session

LOST = MACHINES[1]
"""A machine whose extraction failed before, and would again."""


def train_and_extract(folder):
    """In a process of its own: Ray keeps the token of another test's cluster in memory."""
    places = Places.of(folder / "data", folder / "results")
    news = queue.SimpleQueue()
    with ray_session(None, dashboard=False):
        from asdray.sweep.training_worker import WorkerOptions
        from asdray.sweep.tune import TuneThread

        failed = frozenset({(trial_of(AE).name, "last", LOST)})
        options = WorkerOptions(places, ("last",), (Recon(),), extracts=True, failed_extractions=failed)
        needs = {"train": Need(cpu=1), "extract": Need(), "umap": Need()}
        thread = TuneThread({0: trial_of(AE)}, options, needs, folder, news)
        thread.start()
        thread.join()
    received = [news.get() for _ in range(news.qsize())]
    events = [value for kind, _, value in received if kind == "event"]
    (folder / "received.json").write_text(json.dumps([events, [kind for kind, _, _ in received]]))


@pytest.mark.ray
def test_a_training_that_extracts_does_so_unit_by_unit_in_its_own_worker(tmp_path):
    build_year(tmp_path / "data")
    subprocess.run([sys.executable, __file__, tmp_path], check=True)
    events, kinds = json.loads((tmp_path / "received.json").read_text())
    trial = trial_of(AE)
    expected = [(stage, machine) for machine in trial.machines for stage in ("train", "extract")]
    expected.remove(("extract", LOST))
    steps = [(e["stage"], e["unit"] or e["machine"]) for e in events]
    steps.sort(key=lambda step: trial.machines.index(step[1]))  # models train side by side
    assert steps == expected
    assert all(e["status"] == "done" and not e["found"] for e in events)
    assert kinds.count("complete") == kinds.count("start")
    assert (kinds.count("start") > 1) == (limits.cpus() > 1), "one trial keeps all CPUs busy"
    assert kinds[-2:] == ["complete", "end"]
    places = Places.of(tmp_path / "data", tmp_path / "results")
    done = [m for m in trial.machines if snapshot(trial, places).extract(m, "last").complete]
    assert done == [m for m in trial.machines if m != LOST]


def test_beside_trainings_there_is_room_for_what_a_task_reserves():
    from asdray.sweep.tune import concurrent_trainings

    one, nothing = Need(cpu=1), Need(cpu=0)
    assert concurrent_trainings(one, nothing, [(2, 0)]) == 2
    assert concurrent_trainings(one, one, [(2, 0)]) == 1
    assert concurrent_trainings(one, one, [(1, 0)]) == 1, "else nothing would train"
    assert concurrent_trainings(Need(cpu=1, gpu=0.25), Need(cpu=1, gpu=0.25), [(16, 1)]) == 3
    assert concurrent_trainings(Need(cpu=0), nothing, [(4, 0)]) == 4
    assert concurrent_trainings(Need(cpu=2), nothing, [(3, 0), (3, 0)]) == 2, (
        "one node each, not three of six CPUs"
    )


def test_what_a_training_and_a_task_reserve():
    def needs(asked, cpus=8, gpus=0):
        cluster = Cluster(((cpus, gpus),))
        found = cluster.needs(Resources.model_validate(asked), threads=2)
        return {kind: (need.cpu, need.gpu) for kind, need in found.items()}

    assert needs({}) == {"train": (2, 0), "extract": (0, 0), "umap": (0, 0)}
    assert needs({}, cpus=1)["train"] == (1, 0)
    assert needs({}, gpus=4) == {"train": (2, 1), "extract": (0, 0), "umap": (0, 0)}
    # Four trainings on each GPU, which also extract there.
    assert needs({"train": {"cpu": 1, "gpu": 0.25}}, gpus=1)["train"] == (1, 0.25)
    # Extraction on a GPU of its own leaves room for it.
    asked = {"extract": {"cpu": 1, "gpu": 0.25}, "score": {"cpu": 2}}
    assert needs(asked, gpus=1) == {"train": (2, 0.75), "extract": (2, 0.25), "umap": (0, 0)}
    with pytest.raises(ValueError, match=r"resources.train.gpu asks for 2, but the largest node .* has 1"):
        needs({"train": {"gpu": 2}}, gpus=1)


if __name__ == "__main__":
    train_and_extract(Path(sys.argv[1]))
