"""`benchmarks/perf/gpu.py`, which nobody can try on a GPU here: all its parts at tiny sizes on the CPU."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

PERF = Path(__file__).parent.parent / "benchmarks" / "perf"
CPU = torch.device("cpu")

BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, *_):
        if name.split(".")[0] in {
            "ray", "optuna", "umap", "pydantic", "soundfile", "lightning", "pyarrow"
        }:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture
def module(monkeypatch) -> Any:
    """A function that imports a module of the benchmarks."""
    monkeypatch.syspath_prepend(str(PERF))
    return importlib.import_module


def test_every_figure_is_measured_where_little_is_installed(tmp_path):
    """Python reads sitecustomize.py at the start of every process, also those of the parts."""
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    (tmp_path / "imports.py").write_text("import pydantic")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    blocked = subprocess.run([sys.executable, tmp_path / "imports.py"], env=environment, capture_output=True)
    assert b"ModuleNotFoundError" in blocked.stderr
    out = tmp_path / "gpu.md"
    command = [sys.executable, PERF / "gpu.py", "--device", "cpu", "--minutes", "5", "--out", out]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    rows = json.loads(out.with_suffix(".json").read_text())["rows"]
    assert rows == json.loads(ran.stdout.splitlines()[-1])["rows"]
    assert {row.get("target") for row in rows} > {6_000, 0.9, 150_000, 1_000_000, 15_000, 2_000, 600}
    for row in rows:
        assert row.get("value", 1) > 0 or row["what"].startswith("check")
        if row.get("target") and "processes" not in row["what"]:
            assert row["limits"], row
    assert sum("kernels" in row for row in rows) == 3
    table = [line for line in out.read_text().splitlines() if line.startswith("|")]
    assert len(table) > len(rows)
    assert {line.count("|") for line in table} == {9}


def test_a_part_that_fails_hangs_or_dies_is_a_row_and_the_others_follow(module, monkeypatch):
    gpu, parts = module("gpu"), module("gpu_parts")

    def raises(rows):
        with rows.attempt("figure"):
            rows.add("figure", "eager", 1, 2.0, "clips/s")
            raise RuntimeError("no room\nmore")

    def part(work):
        parts.PARTS["card"] = (work, 1)
        # A fork knows the part of this test.
        return [*gpu.received(multiprocessing.get_context("fork"), 2.0, "card", "cpu", 0.1, {})]

    monkeypatch.setitem(parts.PARTS, "card", (raises, 1))
    value, failed = part(raises)
    assert value["value"] == 2.0
    assert failed == {"what": "figure", "failed": "RuntimeError: no room"}
    assert part(lambda rows: os._exit(3)) == [{"what": "card", "failed": "exit code 3"}]
    assert part(lambda rows: time.sleep(60)) == [{"what": "card", "failed": "not done after 2 s"}]
    assert gpu.markdown(failed).count("|") == 9


def test_importing_the_parts_leaves_the_gpu_alone():
    """They are imported before a fork, after which a GPU that was asked anything could not be used."""
    script = (
        "import sys, torch\n"
        f"sys.path.insert(0, {str(PERF)!r})\n"
        "def refuse(*_): raise AssertionError('asked the GPU')\n"
        "torch._C._cuda_getDeviceCount = torch.cuda.is_available = torch.cuda.device_count = refuse\n"
        "import gpu_parts\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_stacked_autoencoders_learn_as_each_alone(dtype, tolerance, module):
    """Ten steps of AdamW have the same losses to rounding, and so has evaluation with running statistics."""
    steps, gpu_steps = module("steps"), module("gpu_steps")
    torch.manual_seed(0)
    models = [steps.Vectors().to(dtype) for _ in range(3)]
    stacked = gpu_steps.Stacked([model.network for model in models]).to(dtype)
    together, *alone = (gpu_steps.Step(m, (torch.zeros(1),), "fp32", "eager") for m in (stacked, *models))
    for _, (vectors,) in zip(range(10), steps.stacked_batches(3, 16, CPU, 300), strict=False):
        batch = vectors.to(dtype)
        wanted = [step((x,)) for step, x in zip(alone, batch, strict=True)]
        torch.testing.assert_close(together((batch,)), sum(wanted), rtol=tolerance, atol=0)
    with torch.no_grad():
        found = stacked.eval().losses(batch)
        wanted = torch.stack([m.eval().loss(x) for m, x in zip(models, batch, strict=True)])
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=0)


def test_limits_count_what_a_layer_computes(module):
    gpu_steps = module("gpu_steps")
    x, weight = torch.randn(8, 32), torch.randn(32, 16)
    work = gpu_steps.Work.of(lambda: x @ weight)
    assert (work.flops, work.nbytes) == (2 * 8 * 32 * 16, 4 * (8 * 32 + 32 * 16 + 8 * 16))
    speed = {"fp32": 1e6, "tf32": 2e6, "bf16": 4e6, "memory": 1e3}
    assert work.limits(8, speed, "bf16")["products"] == pytest.approx(8 * 4e6 / work.flops)
    assert work.limits(8, speed, "fp32")["memory"] == pytest.approx(8 * 1e3 / work.nbytes)
    image, kernel = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3)
    convolved = gpu_steps.Work.of(lambda: torch.nn.functional.conv2d(image, kernel))
    assert convolved.convolved == convolved.flops == 2 * 2 * 4 * 3 * 9 * 36
    assert convolved.limits(2, speed, "fp32")["products"] == pytest.approx(2 * 2e6 / convolved.flops)


# ------------------------------------------------------------------------------------- a sweep on one GPU


def test_the_time_of_a_sweep_is_that_from_its_first_epoch_to_its_last(module, tmp_path):
    sweep = module("gpu_sweep")
    with pytest.raises(ValueError, match="no training ended"):
        sweep.span(tmp_path)
    for trial, seconds, end in (("a", (2.0, 3.0), 1000.0), ("b", (1.0, 1.0), 1010.0)):
        model = tmp_path / "trials" / "dcase2023" / "system" / trial / "model" / "all"
        (model / "checkpoints").mkdir(parents=True)
        (model / "checkpoints" / "last.ckpt").touch()
        os.utime(model / "checkpoints" / "last.ckpt", (end, end))
        lines = ["epoch,loss,seconds", *(f"{i},0.5,{s}" for i, s in enumerate(seconds, 1))]
        (model / "metrics.csv").write_text("\n".join(lines) + "\n")
    assert sweep.span(tmp_path) == (995.0, 1010.0, 2)


def test_quarters_of_a_gpu_or_of_all_cpus_are_reserved(module):
    sweep = module("gpu_sweep")
    cpus = len(os.sched_getaffinity(0))
    assert sweep.resources("quarters", 1) == {"train": {"gpu": 0.25, "cpu": 1}}
    assert sweep.resources("one", 1) == {"train": {"gpu": 1.0, "cpu": 1}}
    assert sweep.resources("one", 0) == {"train": {"gpu": 0, "cpu": cpus}}
    assert sweep.resources("auto", 1) == "auto"


def test_the_load_between_two_times_is_sampled(module, tmp_path, monkeypatch):
    """Of all CPUs, and of a GPU: here by a command that writes as nvidia-smi does."""
    sweep = module("gpu_sweep")
    load = sweep.Load(0)
    began = time.time()
    while time.time() < began + 1:
        pass
    load.end()
    assert 0 < load.mean(began, time.time()) <= 1
    assert load.mean(0, 1) is None
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\necho 40; echo '[N/A]'; echo 80; exec sleep 60\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    load = sweep.Load(1)
    while len(load.samples) < 2:
        time.sleep(0.01)
    load.end()
    assert load.mean(began, time.time()) == pytest.approx(0.6)


def test_the_wheels_to_gather_are_locked():
    script = (PERF / "gpu_sweep.sh").read_text()
    subprocess.run(["bash", "-n", PERF / "gpu_sweep.sh"], check=True)
    names = script.partition('wheels=${WHEELS:-"')[2].partition('"')[0].split()
    lock = (PERF.parent.parent / "requirements.lock").read_text().lower()
    assert "ray" in names
    assert [name for name in names if f"\n{name}==" not in f"\n{lock}"] == []
