"""A small real trial, and single bits of its files that change on disk while size and time stay."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny

from asdray import store
from asdray.config.backend import Knn, backend_id
from asdray.stages.evaluate import evaluate
from asdray.stages.extract import extract
from asdray.stages.score import score
from asdray.stages.steps import Request, TrialFiles
from asdray.stages.table import table
from asdray.stages.train import train
from asdray.stages.trial_json import write_trial
from asdray.store import Places

TRIAL, CKPT, BACKEND = tiny.trial_of(tiny.DIS), "last", Knn()


def build(root: Path) -> Places:
    """A formatted year and a trial of all stages but UMAP."""
    places = Places.of(root / "data", root / "results")
    tiny.build_year(places.data)
    complete(places)
    return places


def complete(places: Places) -> Counter[str]:
    """Runs every stage that is not complete; returns how many ran, by stage."""
    files = TrialFiles.load(TRIAL, places)
    write_trial(files, Request((CKPT,), (BACKEND,)))
    ran: Counter[str] = Counter(train=not train(files, TRIAL.units[0], device="cpu").reused)
    for machine in TRIAL.machines:
        at = files, machine, CKPT
        ran["extract"] += not extract(*at, device="cpu").reused
        ran["score"] += not score(*at, BACKEND).reused
        ran["evaluate"] += not evaluate(*at, (BACKEND,)).reused
    ran["table"] += not table(files, (CKPT,), (BACKEND,)).reused
    return +ran


def files_of(places: Places) -> dict[str, Path]:
    """One file of each kind."""
    folder = store.trial_dir(places.results, TRIAL)
    machine = "fan"
    pack = store.pack_dir(places.cache, tiny.DCASE, machine, "train")
    return {
        "checkpoint": folder.checkpoint(TRIAL.units[0].name, CKPT),
        "audio pack": next(pack.glob("samples-*.npy")),
        "extract": folder.extract(CKPT, machine, "test"),
        "scores": folder.scores(CKPT, machine, backend_id(BACKEND)),
        "evaluate": folder.evaluate(CKPT, machine),
        "score view": folder.score_view(CKPT, machine, "test"),
        "metrics": folder.metrics,
        "official": next(folder.output(CKPT).glob("official*-dev.csv")),
        "manifest": store.manifest_path(places.data, tiny.DCASE),
    }


def flip(path: Path, rng: random.Random) -> Callable[[], None]:
    """Flips one bit; the result undoes the flip. Size and time of change stay."""
    before, times = path.read_bytes(), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    at, bit = rng.randrange(len(before)), rng.randrange(8)
    after = bytearray(before)
    after[at] ^= 1 << bit

    def put(content: bytes) -> None:
        path.write_bytes(content)  # in place, as a disk does: no rename
        os.utime(path, ns=times)

    put(bytes(after))
    return lambda: put(before)


def outcome(read: Callable[[], Any], expected: Any, path: Path) -> str:
    """``same``, ``refused`` (a ValueError that names the file), ``other values``, or the name of the error."""
    try:
        found = read()
    except ValueError as error:
        return "refused" if path.name in str(error) else f"{type(error).__name__} without the name"
    except Exception as error:
        return type(error).__name__
    return "same" if found == expected else "other values"
