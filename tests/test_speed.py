"""The measures that make training fast change no result; a measure that changes one is an option."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import AE, DCASE, DIS, MACHINES, build_year, trial_of

from asdray import frontends, store
from asdray.audio.batches import Clips
from asdray.audio.cache import ensure_pack
from asdray.config.system import load_recipe, with_overrides
from asdray.frontends.discriminative import ClipBatch
from asdray.stages.extract import extract
from asdray.stages.steps import TrialFiles
from asdray.stages.train import train
from asdray.store import Places
from asdray.sweep.cluster import WORKER_ENV

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Places:
    folder = tmp_path_factory.mktemp("speed")
    build_year(folder / "data")
    return Places.of(folder / "data", folder / "results")


@pytest.mark.skipif(sys.platform != "linux", reason="settings of glibc")
def test_freed_memory_is_used_again():
    """In a sweep's worker, a large block that was freed comes back without a page fault, and at once."""
    script = (
        "import resource, torch\n"
        "from asdray.frontends import compute\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "with compute.settings(1, torch.device('cpu')):\n"
        "    blocks = [torch.ones(16 << 20) for _ in range(2)]\n"  # 64 MiB each
        "    del blocks\n"
        "    before = faults()\n"
        "    for _ in range(3):\n"
        "        torch.ones(16 << 20)\n"
        "    print(faults() - before)\n"
    )
    faults = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **WORKER_ENV},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert int(faults) < 1000  # of 49152 pages


@pytest.mark.parametrize("system", [DIS, AE], ids=["dis", "ae"])
def test_bf16_is_asked_for_by_name(system, places):
    """It is another system with other digits, near those of fp32; what it saves is float32."""
    bf16 = with_overrides(system, {"train.precision": "bf16"}, "x")
    assert with_overrides(system, {"train.precision": "fp32"}, "x").id == system.id != bf16.id
    losses, weights = [], []
    for one in (system, bf16):
        trial = trial_of(one)
        losses.append(train(TrialFiles.load(trial, places), trial.units[0]).record.extra["loss"])
        path = store.trial_dir(places.results, trial).checkpoint(trial.units[0].name, "last")
        weights.append(torch.load(path, weights_only=True)["state_dict"])
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert {v.dtype for v in weights[1].values()} == {v.dtype for v in weights[0].values()}


@pytest.mark.parametrize("n_samples", [6400, 20000])
def test_clips_on_a_device_are_the_same(n_samples, places):
    clips = Clips([ensure_pack(places, DCASE, m, "train") for m in MACHINES])
    there = clips.on(CPU)
    rng = np.random.default_rng(0)
    index = rng.integers(0, len(clips), 50)
    starts = clips.random_starts(rng, n_samples)[index]
    assert len(there) == len(clips)
    assert clips.nbytes == 2 * clips.lengths.sum()
    for crop in (None, starts):
        here = clips.gather(index, n_samples, crop)
        assert here.dtype == torch.int16
        assert torch.equal(there.gather(index, n_samples, crop), here)


def test_packed_audio_is_all_that_training_and_extraction_read(tmp_path):
    build_year(tmp_path / "data")
    places = Places.of(tmp_path / "data", tmp_path / "results")
    for machine in MACHINES:
        for split in ("train", "test"):
            ensure_pack(places, DCASE, machine, split)
    for wav in (tmp_path / "data" / "original").rglob("*.wav"):
        wav.unlink()
    trial = trial_of(with_overrides(DIS, {"train.epochs": 1}, "x"))
    assert not train(TrialFiles.load(trial, places), trial.units[0]).reused
    assert not extract(TrialFiles.load(trial, places), MACHINES[0], "last").reused


# ----------------------------------------------------------------------------------- what benchmarks measure

PERF = Path(__file__).parent.parent / "benchmarks" / "perf"

BARE = """
import sys

class Blocker:
    def find_spec(self, name, *_):
        if name.split(".")[0] in {"pydantic", "ray", "optuna", "umap", "soundfile", "lightning", "pyarrow"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocker())
sys.path.insert(0, sys.argv[1])
import gpu, train
"""


def test_benchmarks_of_steps_run_where_little_is_installed():
    subprocess.run([sys.executable, "-c", BARE, str(PERF)], check=True, timeout=300)


def test_benchmarks_measure_the_steps_of_the_frontends(monkeypatch):
    """The same weights and batch have the same loss, bit for bit, as in what is trained."""
    monkeypatch.syspath_prepend(str(PERF))
    steps = importlib.import_module("steps")
    torch.manual_seed(0)
    seconds = 5
    labels = [f"{i:03d}" for i in range(steps.N_CLASSES)]
    columns = {"machine": labels, "section": labels, "attributes": labels, "domain": labels}
    frontend = frontends.build(load_recipe("dis_baseline").system.frontend, seconds * 16000, columns=columns)
    model = steps.TwoBranch(seconds)
    model.fft.load_state_dict(frontend.branches[0].network.state_dict())
    model.stft.load_state_dict(frontend.branches[1].network.state_dict())
    model.head.load_state_dict(frontend.head.state_dict())
    batch = next(steps.clip_batches(steps.make_clips(4, seconds), seconds, 4, CPU))
    assert torch.equal(model.loss(model.prepare(batch)), frontend.loss(ClipBatch(*batch)))

    frontend = frontends.build(load_recipe("ae_baseline").system.frontend, 16000)
    model = steps.Vectors()
    model.network.load_state_dict(frontend.network.state_dict())
    batch = next(steps.vector_batches(16, CPU, 100))
    assert torch.equal(model.loss(model.prepare(batch)), frontend.loss(batch[0]))
