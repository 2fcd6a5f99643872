"""How long does ASDKit, the reference toolkit, take for the work of `pipeline.py`? Ten minutes per recipe.

    python benchmarks/perf/reference.py CHECKOUT PYTHON

CHECKOUT is a checkout of ASDKit (TakuyaFujimura/dcase-asd-toolkit), PYTHON an interpreter with the packages
of ASDKit; ASDKit is not part of asdray. Each stage of each machine is a process, one after the other, as in
ASDKit's job scripts, on the data and with the options of `pipeline.py`, which calls this module for `--asdkit
CHECKOUT PYTHON`. If a version of ASDKit names an option differently, change the name in `stages`.

As a script, this module compares one epoch of training: two branches, batch 64, clips of 6 and 18 s; asdray
in fp32 and in bf16, unless the CPU only emulates bf16. The time of an epoch is the difference between a
training of two epochs and a training of one, without imports and set-up. Both toolkits get two threads; with
--threads 1 both get one, as in a sweep with a training on every CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import runs
import steps
import torch

TRAIN, TEST, SECONDS = 200, 100, 6
OURS = {
    "ae_baseline": {"train.epochs": 5, "audio.duration": SECONDS},
    "dis_baseline": {
        "train.epochs": 4,
        "train.batch_size": 64,
        "train.threads": 2,
        "audio.duration": SECONDS,
    },
}
"""Options of the pipeline's recipes. The two-branch training gets both CPUs, torch's default in ASDKit."""
THEIRS = {"ae_baseline": "ae", "dis_baseline": "dis_spec_adacos_fixed"}


@dataclass(frozen=True)
class Toolkit:
    """A checkout of ASDKit and its interpreter."""

    checkout: Path
    python: Path
    threads: int | None = None
    """None for torch's default: all CPUs."""


@dataclass(frozen=True)
class Stage:
    """A process of ASDKit, with its wall and CPU seconds."""

    name: str
    machine: str
    wall: float
    cpu: float


def stages(recipe: str, data: Path, machines: Sequence[str]) -> Iterator[tuple[str, str, list[str]]]:
    """(stage, machine, options) of all ASDKit processes of a recipe, in order."""
    ours = OURS[recipe]
    separate = recipe == "ae_baseline"  # one model per machine
    common = ["name=recipe", f"version={THEIRS[recipe]}", f"dcase={runs.DCASE}", "seed=0"]
    train = [
        *common,
        f"experiments={THEIRS[recipe]}",
        f"data_dir={data}",
        f"datamodule.{'valid.collator.' if separate else ''}sec={ours['audio.duration']:.1f}",
        f"datamodule.batch_size={ours.get('train.batch_size', 256)}",
        f"trainer.max_epochs={ours['train.epochs']}",
        "trainer.accelerator=cpu",
        "trainer.devices=1",
    ]
    yield "label", "all", [f"experiments={runs.DCASE}", f"data_dir={data}"]
    if not separate:
        yield "train", "all", train
    for machine in machines:
        one = [*common, "infer_ver=last", f"machine={machine}"]
        if separate:
            yield "train", machine, [*train, f"machine={machine}"]
        restored = f"experiments=restore/{'machinewise' if separate else 'shared'}"
        length = f"datamodule.train.collator.sec={ours['audio.duration']:.1f}"
        yield "extract", machine, [*one, restored, f"data_dir={data}", "device=cpu", length]
        yield "score", machine, [*one, "experiments=default"]
        yield "evaluate", machine, one
        yield "visualize", machine, one
    if set(machines) == set(runs.MACHINES):
        yield "table", "all", [*common, "infer_ver=last"]


def run_stage(toolkit: Toolkit, name: str, machine: str, options: Sequence[str], folder: Path) -> Stage:
    """Runs one process of ASDKit in ``folder``; ends this script if the process fails."""
    env = {
        **os.environ,
        "PYTHONPATH": str(toolkit.checkout),
        "CUDA_VISIBLE_DEVICES": "",
        "MPLBACKEND": "Agg",
        "HYDRA_FULL_ERROR": "1",
    }
    if toolkit.threads:
        env |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(toolkit.threads))
    log = folder / f"{name}-{machine}.log"
    start = time.perf_counter()
    with log.open("w") as out:
        process = subprocess.Popen(
            [str(toolkit.python), "-m", f"asdkit.bin.{name}", *options],
            cwd=folder, env=env, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"ASDKit's {name} of {machine} failed:\n{log.read_text()[-2000:]}")
    return Stage(name, machine, time.perf_counter() - start, usage.ru_utime + usage.ru_stime)


def pipeline(toolkit: Toolkit, recipe: str, data: Path, folder: Path) -> list[Stage]:
    """Runs all stages of a recipe by ASDKit; results go to the new folder ``folder``."""
    folder.mkdir(parents=True)
    return [
        run_stage(toolkit, name, machine, options, folder)
        for name, machine, options in stages(recipe, data, runs.MACHINES)
    ]


def after_training(stages: Sequence[Stage]) -> float:
    """Wall seconds of all stages after the training."""
    return sum(stage.wall for stage in stages if stage.name not in ("label", "train"))


def print_stages(recipe: str, stages: Sequence[Stage]) -> None:
    """Prints a table of the seconds of each kind of process."""
    whole, cpu = sum(stage.wall for stage in stages), sum(stage.cpu for stage in stages)
    print(f"\nASDKit, {recipe}: {whole:.0f} s, {cpu:.0f} of the CPU\n")
    rows = []
    for name in dict.fromkeys(stage.name for stage in stages):
        same = [stage for stage in stages if stage.name == name]
        rows.append(
            [
                name,
                str(len(same)),
                runs.spread([s.wall for s in same], 1),
                runs.spread([s.cpu for s in same], 1),
            ]
        )
    runs.print_table(["stage", "processes", "s per process", "CPU s per process"], rows)


# -------------------------------------------------------------------------------------- an epoch of training


def asdkit_epoch(toolkit: Toolkit, data: Path, seconds: int, folder: Path) -> tuple[float, float]:
    """Wall and CPU seconds of the second epoch in ASDKit."""
    folder.mkdir(parents=True)
    label, train = list(stages("dis_baseline", data, ()))[:2]
    run_stage(toolkit, *label, folder)
    took = []
    for epochs in (1, 2):
        options = [*train[2], f"trainer.max_epochs={epochs}", f"datamodule.sec={seconds:.1f}"]
        took.append(run_stage(toolkit, "train", f"{epochs}", [*options, f"name=epochs{epochs}"], folder))
    return took[1].wall - took[0].wall, took[1].cpu - took[0].cpu


def asdray_epoch(data: Path, seconds: int, precision: str, threads: int, folder: Path) -> float:
    """Wall seconds of the second epoch in a sweep of asdray."""
    folder.mkdir(parents=True)
    options = {
        "audio.duration": seconds,
        "train.batch_size": 64,
        "train.epochs": 2,
        "train.precision": precision,
        "train.threads": threads,
    }
    spec = {
        "name": "epoch",
        "recipes": {"dis_baseline": {"set": options}},
        "dcase": [runs.DCASE],
        "seeds": [0],
        "machines": {runs.DCASE: runs.MACHINES},
        "backends": ["knn"],
        "umap": False,
    }
    (folder / "epoch.yaml").write_text(json.dumps(spec))
    runs.asdray("sweep", folder / "epoch.yaml", "--data", data, "--results", folder, "--no-dashboard")
    (metrics,) = folder.glob("trials/*/*/*/model/*/metrics.csv")
    head, *rows = [line.split(",") for line in metrics.read_text().splitlines()]
    return float(rows[1][head.index("seconds")])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path)
    parser.add_argument("python", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=int, nargs="+", default=[6, 18])
    args = parser.parse_args()
    toolkit = Toolkit(args.checkout.resolve(), args.python.absolute(), args.threads)
    bf16 = steps.precisions(torch.device("cpu"))[1:]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        runs.make_data(root / "data", runs.MACHINES, TRAIN, TEST, SECONDS)
        clips = len(runs.MACHINES) * TRAIN
        print(f"{runs.describe_machine()}; {args.threads} threads, an epoch of {clips} clips\n")
        rows = []
        for seconds in args.seconds:
            theirs, cpu = asdkit_epoch(toolkit, root / "data", seconds, root / f"theirs-{seconds}")
            cells = [f"{seconds} s", f"{theirs:.1f}", f"{cpu:.1f}"]
            for precision in ("fp32", *bf16):
                ours = asdray_epoch(
                    root / "data", seconds, precision, args.threads, root / f"{precision}-{seconds}"
                )
                cells += [f"{ours:.1f}", f"{theirs / ours:.2f}"]
            rows.append(cells)
    head = ["clips of", "ASDKit, s", "ASDKit, CPU s", "fp32, s", "times faster", "bf16, s", "times faster"]
    runs.print_table(head if bf16 else head[:5], rows)


if __name__ == "__main__":
    main()
