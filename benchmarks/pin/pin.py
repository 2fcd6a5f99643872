"""Do results stay identical? Hashes of everything that a small sweep, search and ensemble write.

``pin.py write FILE`` makes small synthetic datasets, runs the real commands on them, and writes a row per
result: the first 16 digits of its sha256, and its name. ``pin.py compare FILE`` makes the rows again and
prints the rows that changed, are missing or are new; exit code 1 if there is one. ``pin.py against COMMIT``
makes the rows of a commit and of this checkout, and compares both: the check for a machine whose CPU gives
other digits than `pin.txt` has.

``--only sweep,hand`` runs some of the parts. See the README beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from rows import collect, compare_rows, of_files, of_parquet, of_text, read_rows, write_rows

TREE = Path(__file__).resolve().parents[2]
"""The checkout that holds this script."""

SAME_DIGITS = {
    # Every library takes the code for AVX2, also on CPUs with AVX-512, and one thread.
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX X86_V4 AVX512_ICL AVX512_SPR",
    "NUMBA_CPU_NAME": "haswell",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
UNSET = (
    "ASDRAY_DATA", "ASDRAY_RESULTS", "ASDRAY_CACHE_DIR", "RAY_ADDRESS", "FORCE_COLOR", "NO_COLOR", "COLUMNS",
    "SLURM_JOB_END_TIME",
)  # fmt: skip
PACKAGES = (
    "torch", "torchaudio", "lightning", "ray", "numpy", "scipy", "scikit-learn", "pandas", "pyarrow",
    "optuna", "umap-learn", "numba",
)  # fmt: skip

FIXED_TIME = 1_700_000_000
"""Time of change of every audio file: signatures depend on it."""

# --------------------------------------------------------------------------------------- small recipes

DIS = {
    "audio.duration": 1.0,
    "frontend.branches": [
        {"name": "fft", "channels": 8, "kernels": [32, 16, 4], "strides": [16, 8, 2], "hidden": 1,
         "embedding_dim": 16},
        {"name": "stft", "n_fft": 256, "hop_length": 128, "channels": [4, 8], "embedding_dim": 16},
    ],
    "train.epochs": 3,
    "train.batch_size": 16,
    "train.learning_rate": 2.0e-3,
}  # fmt: skip
AE = {
    "audio.duration": 1.0,
    "frontend.n_mels": 16,
    "frontend.n_fft": 512,
    "frontend.hop_length": 256,
    "frontend.hidden": [16],
    "frontend.bottleneck": 4,
    "train.epochs": 4,
    "train.batch_size": 64,
    "train.learning_rate": 3.0e-3,
}
RAW = {"audio.duration": 1.0, "frontend.n_mels": 16, "frontend.n_fft": 512, "frontend.hop_length": 256}


def without(options: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Options but one, which a space varies."""
    return {name: value for name, value in options.items() if name != key}


LOSSES = [{"name": "adacos"}, {"name": "subcluster_adacos", "n_subclusters": 4, "trainable": True}]
MACHINES = {"dcase2022": ["ToyCar", "fan"], "dcase2023": ["fan", "bandsaw"]}
ONE_YEAR = {"dcase": ["dcase2023"], "machines": {"dcase2023": MACHINES["dcase2023"]}}
BACKENDS = ["knn", {"name": "knn", "smote_ratio": 0.2}, "kmeans", "knn_rescale", "ldn", "mahalanobis", "gmm"]

SWEEP = {
    "name": "sweep",
    "recipes": {"dis_baseline": {"set": DIS, "space": {"frontend.loss": LOSSES}}, "ae_baseline": {"set": AE}},
    "dcase": ["dcase2022", "dcase2023"],
    "seeds": [0, 1],
    "machines": MACHINES,
    "backends": BACKENDS,
    "umap": False,
    "ensembles": [
        {"name": "s", "of": "seeds"},
        {"name": "top3", "of": "top", "k": 3, "rank_by": "dcase2023-dev"},
        {"name": "mix", "of": ["dis_baseline/knn", "ae_baseline/recon"], "combine": "rank"},
    ],
}
SEARCH = {
    "name": "search",
    "recipes": {"dis_baseline": {"set": without(DIS, "train.learning_rate")}},
    "space": {
        "train.learning_rate": {"loguniform": [1.0e-4, 1.0e-2]},
        "frontend.mixup_probability": {"quniform": [0.0, 1.0, 0.25]},
        "frontend.loss": [LOSSES[0], {"name": "subcluster_adacos", "n_subclusters": {"randint": [2, 4]}}],
    },
    **ONE_YEAR,
    "seeds": [0],
    "backends": ["knn", {"name": "knn", "n_neighbors": 2}],
    "umap": False,
    "search": {"algorithm": "optuna", "num_samples": 3, "objective": "official_dev", "max_concurrent": 1},
    "confirm": {"top_k": 1, "seeds": [10, 11]},
}
STOPPED = {
    **SEARCH,
    "name": "stopped",
    "space": {"train.learning_rate": [1.0e-2, 1.0e-7]},
    "search": {"algorithm": "random", "num_samples": 2, "seed": 4, "objective": "train_loss",
               "max_concurrent": 1},
    "scheduler": {"name": "asha", "grace_period": 2, "reduction_factor": 4},
    "confirm": None,
}  # fmt: skip
KEEP = {
    "name": "keep",
    "recipes": {"raw_spec": {"set": RAW}, "ae_baseline": {"set": AE}},
    **ONE_YEAR,
    "seeds": [0],
    "backends": ["knn"],
    "checkpoints": ["last", "best"],
    "umap": False,
    "keep": {"checkpoints": "none", "embeddings": "none"},
}
TOP = {
    "name": "top",
    "recipes": {
        "raw_spec": {"set": without(RAW, "frontend.n_mels"), "space": {"frontend.n_mels": [8, 12, 20]}}
    },
    **ONE_YEAR,
    "seeds": [0],
    "backends": ["knn"],
    "umap": False,
    "keep": {"embeddings": {"top": 1}},
}

# ----------------------------------------------------------------------------------------------- running


class Runner:
    """Runs commands of one checkout in one folder.

    Attributes:
        root: the folder of data and results; its path is short, since Ray's sockets may lie below it.
        tree: the checkout whose ``asdray`` runs.
        rows: name of a result -> hash, of all parts that ran.
        environment: that of every command: equal digits on most CPUs, and none of the caller's options.
    """

    def __init__(self, root: Path, tree: Path) -> None:
        self.root, self.tree = root, tree
        self.rows: dict[str, str] = {}
        environment = {key: value for key, value in os.environ.items() if key not in UNSET}
        self.environment = {**environment, **SAME_DIGITS, "PYTHONPATH": str(tree)}

    def python(self, *args: object) -> str:
        """Runs the interpreter; returns its standard output, or ends this script if it fails."""
        command = [sys.executable, *map(str, args)]
        run = subprocess.run(command, capture_output=True, text=True, cwd=self.root, env=self.environment)
        if run.returncode:
            raise SystemExit(f"exit code {run.returncode}: {' '.join(command)}\n{run.stdout}{run.stderr}")
        return run.stdout

    def asdray(self, *args: object) -> str:
        """Runs one command of asdray."""
        return self.python("-m", "asdray", *args)

    def places(self, part: str) -> tuple[object, ...]:
        """Options that name the data, and the results of a part."""
        return ("--data", self.root / "data", "--results", self.root / part)

    def sweep(self, part: str, spec: Mapping[str, Any]) -> None:
        """Runs a sweep file in the results of a part."""
        path = self.root / f"{spec['name']}.yaml"
        path.write_text(json.dumps(spec))  # JSON is YAML
        self.asdray("sweep", path, *self.places(part), "--no-dashboard", "--quiet")

    def collect(self, part: str, prefix: str | None = None) -> None:
        """Adds the rows of a part's results, below its name or below ``prefix``."""
        for name, digest in collect(self.root / part, self.root).items():
            self.rows[f"{prefix or part}/{name}"] = digest

    def text(self, name: str, text: str) -> None:
        """Adds the row of printed text."""
        self.rows[name] = of_text(text, self.root)

    def make_data(self, dcase: str, machines: Iterable[str], train: int, test: int) -> None:
        """Makes and formats a synthetic dataset whose files all have the same time of change."""
        data = ("--data", self.root / "data")
        sizes = ("--train", train, "--test", test, "--seconds", 1.2)
        self.asdray("synth", dcase, "--machines", ",".join(machines), *sizes, *data)
        for path in sorted((self.root / "data" / "original" / dcase).rglob("*")):
            os.utime(path, (FIXED_TIME, FIXED_TIME))
        self.asdray("format", dcase, *data)
        self.rows[f"data/{dcase}/original"] = of_files(
            self.root / "data" / "original" / dcase, "*.wav", "*.csv"
        )
        manifest = self.root / "data" / "formatted" / dcase / "clips.parquet"
        self.rows[f"data/{dcase}/clips.parquet"] = of_parquet(manifest)


# ------------------------------------------------------------------------------------------------- parts


def sweep(runner: Runner) -> None:
    """A grid of three systems, two years and two seeds, with ensembles; its reports and comparisons."""
    runner.sweep("sweep", SWEEP)
    places = runner.places("sweep")
    # `report` without a metric writes the same tables again; with one, tables and a leaderboard beside them.
    runner.asdray("report", "sweep", "--metric", "s_auc", "--metric", "mix_pauc", *places)
    _compare(runner, "sweep")
    runner.python(
        "-c", _LOAD_RESULTS, runner.root / "sweep/sweeps/sweep", runner.root / "sweep/loaded.parquet"
    )
    runner.collect("sweep")


_LOAD_RESULTS = """
import sys, asdray
frame = asdray.load_results(sys.argv[1])
frame = frame[sorted(frame.columns)]
frame.sort_values(list(frame.columns), key=lambda column: column.astype(str)).to_parquet(sys.argv[2])
"""


def _compare(runner: Runner, part: str) -> None:
    """Adds the printed comparison of the first system of each recipe, and its CSV file."""
    names = sorted(path.name for path in (runner.root / part / "trials" / "dcase2023").iterdir())
    dis, ae = (next(n for n in names if n.startswith(recipe)) for recipe in ("dis_baseline", "ae_baseline"))
    options = ("--backend", "knn", "--backend-b", "recon")
    out = ("--out", runner.root / part / "compared.csv")
    runner.text(
        f"{part}/compared.txt", runner.asdray("compare", dis, ae, *options, *out, *runner.places(part))
    )


def hand(runner: Runner) -> None:
    """Two trials of the sweep without Ray: their files must be the sweep's. Their submissions, scored."""
    backends = [part for one in BACKENDS for part in ("--backend", json.dumps(one))]
    for recipe, dcase in (
        ("dis_baseline", "dcase2022"),
        ("dis_baseline", "dcase2023"),
        ("ae_baseline", "dcase2023"),
    ):
        options = {**DIS, "frontend.loss": LOSSES[0]} if recipe == "dis_baseline" else AE
        changes = [part for key, value in options.items() for part in ("--set", f"{key}={json.dumps(value)}")]
        # The autoencoder has a backend of its own.
        chosen = backends if recipe == "dis_baseline" else []
        more = ("--machines", ",".join(MACHINES[dcase]), *changes, *chosen, "--device", "cpu")
        plots = () if recipe == "ae_baseline" else ("--no-umap",)
        runner.asdray("run", recipe, dcase, *more, *plots, *runner.places("hand"))
    for dcase in MACHINES:
        _submit(runner, "hand", dcase, {"dis_baseline": "knn", "ae_baseline": "recon"})
    runner.collect("hand")


def _submit(runner: Runner, part: str, dcase: str, backends: Mapping[str, str]) -> None:
    """Writes a submission of every trial of a year, and scores them as the official evaluator does."""
    teams = runner.root / part / f"teams-{dcase}"
    for trial in sorted((runner.root / part / "trials" / dcase).glob("*/seed*")):
        recipe = trial.parent.name.rpartition("-")[0]
        out = ("--out", teams / "ours" / recipe, "--data", runner.root / "data")
        runner.asdray("submit", trial, "--backend", backends[recipe], *out)
    truth = runner.root / "data" / "original" / dcase / "ground_truth"
    where = ("official", teams, "--dcase", dcase, "--ground-truth", truth)
    runner.asdray(*where, "--partial")
    if dcase == "dcase2022":
        runner.asdray(*where, "--compat", "--out", runner.root / part / f"compat-{dcase}")


def search(runner: Runner) -> None:
    """A search by Optuna whose best system is confirmed; a random one whose scheduler stops a training."""
    runner.sweep("search", SEARCH)
    runner.sweep("search", STOPPED)
    runner.collect("search")


def keep(runner: Runner) -> None:
    """Trials whose checkpoints and embeddings are deleted, then scored by one more backend."""
    runner.sweep("keep", KEEP)
    runner.collect("keep", "keep-before")
    runner.sweep("keep", {**KEEP, "backends": ["knn", "mahalanobis"]})
    runner.sweep("keep", TOP)
    runner.collect("keep")


YEARS = {"dcase2020": ["fan", "ToyCar"], "dcase2021": ["fan"], "dcase2026": ["Sander", "ToyDrone"]}


def years(runner: Runner) -> None:
    """Years of other rules: 2020 without domains, 2021 with files by domain, 2026 with two channels."""
    changes = [part for key, value in RAW.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    for dcase, machines in YEARS.items():
        runner.make_data(dcase, machines, 10, 12)
        more = (
            "--machines",
            ",".join(machines),
            "--backend",
            "knn",
            *changes,
            "--no-umap",
            "--device",
            "cpu",
        )
        runner.asdray("run", "raw_spec", dcase, *more, *runner.places("years"))
        _submit(runner, "years", dcase, {"raw_spec": "knn"})
    runner.collect("years")


PARTS: dict[str, Callable[[Runner], None]] = {
    "sweep": sweep,
    "hand": hand,
    "search": search,
    "keep": keep,
    "years": years,
}


def make_rows(tree: Path, parts: Sequence[str], keep_folder: bool = False) -> dict[str, str]:
    """Name of a result -> hash, of the given parts, made by the ``asdray`` of a checkout."""
    folder = Path(tempfile.mkdtemp(prefix="pin-", dir="/tmp" if os.path.isdir("/tmp") else None))
    try:
        runner = Runner(folder, tree)
        for name, work in [("data", _data), *((name, PARTS[name]) for name in parts)]:
            started = time.monotonic()
            work(runner)
            print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        return runner.rows
    finally:
        if keep_folder:
            print(f"everything is in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _data(runner: Runner) -> None:
    """The two years of all parts but the last."""
    runner.make_data("dcase2022", MACHINES["dcase2022"], 8, 8)
    runner.make_data("dcase2023", MACHINES["dcase2023"], 24, 16)


def check_hand(rows: Mapping[str, str]) -> list[str]:
    """Faults: results of a trial by hand that the sweep's trial has otherwise, or has not."""
    if not any(name.startswith("sweep/") for name in rows):
        return []
    found = []
    for name, digest in sorted(rows.items()):
        twin = rows.get(name.replace("hand/", "sweep/", 1), "missing")
        plotted = "/umap" in name or name.endswith("#umap")  # by hand alone
        if name.startswith("hand/trials/") and twin != digest and not plotted:
            found.append(f"by hand {digest}, in the sweep {twin}  {name}")
    return found


def header(tree: Path) -> list[str]:
    """The origin of the rows: commit, CPU, packages."""
    described = subprocess.run(
        ["git", "-C", str(tree), "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    versions = " ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    return [
        f"commit {described.stdout.strip()}",
        f"CPU {_cpu()}",
        f"Python {platform.python_version()}, {versions}",
    ]


def _cpu() -> str:
    """The name of the CPU, as Linux knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine()
    )


# ---------------------------------------------------------------------------------------------- commands


def _against(commit: str, parts: Sequence[str]) -> dict[str, str]:
    """The rows of a commit of this repository."""
    folder = Path(tempfile.mkdtemp(prefix="pin-tree-"))
    git = ["git", "-C", str(TREE), "worktree"]
    subprocess.run([*git, "add", "--detach", "--quiet", str(folder / "tree"), commit], check=True)
    try:
        return make_rows(folder / "tree", parts)
    finally:
        subprocess.run([*git, "remove", "--force", str(folder / "tree")], check=True)
        folder.rmdir()


def _of_parts(rows: Mapping[str, str], parts: Sequence[str]) -> dict[str, str]:
    """The rows that the given parts make; those of data come with every part."""
    prefixes = ["data/", *(f"{name}/" for name in parts)]
    prefixes += ["keep-before/"] if "keep" in parts else []
    skipped = () if "years" in parts else tuple(f"data/{dcase}/" for dcase in YEARS)
    return {n: d for n, d in rows.items() if n.startswith(tuple(prefixes)) and not n.startswith(skipped)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["write", "compare", "against"])
    parser.add_argument("target", help="the file of rows; of `against`, a commit")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas; default all")
    parser.add_argument("--keep-folder", action="store_true", help="leave data and results, and say where")
    parser.add_argument("--tree", type=Path, default=TREE, help="the checkout whose asdray runs")
    args = parser.parse_args()
    parts = args.only.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown parts {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")

    expected: dict[str, str] = {}
    if args.action == "compare":
        expected = read_rows(Path(args.target))
    elif args.action == "against":
        expected = _against(args.target, parts)
    tree = args.tree.resolve()
    rows = make_rows(tree, parts, args.keep_folder)
    faults = check_hand({**expected, **rows})  # also a part that did not run is compared with, as it was
    if args.action == "write":
        path = Path(args.target)
        others = read_rows(path) if path.exists() else {}
        others = {name: digest for name, digest in others.items() if name not in _of_parts(others, parts)}
        write_rows(path, {**others, **rows}, header(tree))
        print(f"{len(rows)} rows are in {path}, beside {len(others)} of parts that did not run")
    else:
        faults += compare_rows(_of_parts(expected, parts), rows)
        print(f"{len(rows)} results, {len(faults)} differ")
    for fault in faults:
        print(fault)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
