"""How long do commands take that only print information? Part of `make perf`.

Timed are `asdray --help`, `recipes`, `status` of a finished sweep of 20 trials, and `sweep --dry-run` of the
shipped demo, as whole processes (median of 7), with the heavy modules that each command imports. Exit code 1
if a command takes a second of the CPU or imports a module of `NEVER`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import runs

ROOT = Path(__file__).resolve().parents[2]
RUNS = 7
BANDS = list(range(16, 36))
MOST_SECONDS = 1.0
NEVER = ("torch", "ray", "lightning", "umap", "sklearn", "pandas")
HEAVY = (*NEVER, "scipy", "optuna", "matplotlib", "numpy", "pyarrow", "pydantic", "yaml", "typer", "rich")


def imports(command: tuple[object, ...]) -> dict[str, float]:
    """Heavy module imported by a command -> milliseconds, including its own imports."""
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "asdray", *map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = [line.split("|") for line in run.stderr.splitlines() if line.startswith("import time:")]
    found = {name.strip(): total for _, total, name in lines if name.strip() in HEAVY}
    # `rich` itself imports nothing: the time is spent in its submodules.
    if "rich" in found:
        below = [int(total) for _, total, name in lines if name.strip() == "rich.console"]
        found["rich"] = str(max(below, default=0))
    return {name: int(total) / 1000 for name, total in found.items()}


def finish(data: Path, results: Path) -> None:
    """Runs all stages of the sweep's trials without Ray."""
    from asdray.store import Places

    for bands in BANDS:
        trial = runs.trial_of("raw_spec", {"frontend.n_mels": bands}, 0, ("fan",), "dcase2022")
        runs.all_stages(trial, Places.of(data, results), contextlib.nullcontext, ("knn",), plots=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=RUNS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        where = ("--data", root / "data", "--results", root / "results")
        for dcase, machines in (
            ("dcase2022", "fan,valve,ToyCar"),
            ("dcase2023", "bearing,gearbox,bandsaw,ToyDrone"),
        ):
            runs.asdray("synth", dcase, "--machines", machines, "--train", 4, "--test", 4, "--seconds", 1,
                        "--data", root / "data")  # fmt: skip
            runs.asdray("format", dcase, "--data", root / "data")
        spec = {
            "name": "finished",
            "recipes": {"raw_spec": {"space": {"frontend.n_mels": BANDS}}},
            "dcase": ["dcase2022"],
            "machines": {"dcase2022": ["fan"]},
            "seeds": [0],
            "backends": ["knn"],
            "umap": False,
        }
        (root / "finished.yaml").write_text(json.dumps(spec))
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            pool.apply(finish, (root / "data", root / "results"))
        commands: dict[str, tuple[object, ...]] = {
            "`--help`": ("--help",),
            "`recipes`": ("recipes",),
            f"`status`, {len(BANDS)} trials done": ("status", root / "finished.yaml", *where),
            "`sweep --dry-run`": ("sweep", ROOT / "sweeps" / "demo.yaml", "--dry-run", *where),
        }
        rows, fine = [], True
        for name, command in commands.items():
            runs.asdray(*command)  # writes bytecode, if bytecode can be written
            costs = [runs.asdray(*command) for _ in range(options.runs)]
            imported = imports(command)
            fine &= statistics.median(c.cpu for c in costs) < MOST_SECONDS and not set(imported) & set(NEVER)
            rows.append(
                [
                    name,
                    runs.spread([c.wall for c in costs]),
                    runs.spread([c.cpu for c in costs]),
                    f"{max(c.mib for c in costs):.0f}",
                    ", ".join(f"{module} {ms:.0f}" for module, ms in imported.items()),
                ]
            )
    print(f"{runs.describe_machine()}; median of {options.runs}; at most {MOST_SECONDS:g} s\n")
    runs.print_table(["command", "wall s", "CPU s", "peak MiB", "imports, ms (by `-X importtime`)"], rows)
    return int(not fine)


if __name__ == "__main__":
    sys.exit(main())
