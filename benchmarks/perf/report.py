"""How large is the report of 1,000 trials, and how fast does it open? Part of `make perf`.

The script writes random results: 250 systems, 4 seeds, the 16 machines of 2024, 4 backends, 100 epochs, and
1,000 training and 200 test clips per machine. Timed are the writing of ``report.html`` in this process, and
its opening in headless Chromium, where one is installed: until the page is loaded and its first figure is
drawn. Exit code 1 above 15 MB, or above 2 seconds.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import runs
import tables as perf

if TYPE_CHECKING:
    from asdray.report.content import Content
    from asdray.store import SweepDir, TrialDir

DCASE, SYSTEMS, SEEDS, BACKENDS = perf.DCASE, perf.SYSTEMS, perf.SEEDS, perf.BACKENDS
EPOCHS, TRAIN, TEST = 100, 1000, 200
MOST_MB, MOST_SECONDS, OPENINGS = 15.0, 2.0, 3


def build(results: Path) -> Content:
    """Writes the results of a sweep; returns what a run would give to the report."""
    import pandas as pd

    from asdray.dcase.years import get_year
    from asdray.evaluation import leaderboard, published, tables
    from asdray.evaluation.tables import STAGES, write_trials
    from asdray.report.content import Content
    from asdray.store import SweepDir, TrialDir, sweep_dir
    from asdray.sweep import events

    random.seed(0)
    folder = SweepDir(sweep_dir(results, "large"))
    made_of = results / "made_of"
    _write_parts(made_of)
    folder.root.mkdir(parents=True)
    rows = []
    trials = [(f"dis-{system:08d}", system, seed) for system in range(SYSTEMS) for seed in range(SEEDS)]
    for name, system, seed in trials:
        directory = f"trials/{DCASE}/{name}/seed{seed}"
        _link(made_of, TrialDir(results / directory), first=seed == 0)
        swept = {
            "train.learning_rate": 1e-4 * 1.02**system,
            "frontend.loss": ("adacos", "arcface")[system % 2],
        }
        facts = {
            "dcase": DCASE,
            "recipe": "dis",
            "system": name,
            "seed": seed,
            "part": "grid",
            "device": "cpu",
        }
        about = {
            "status": "done",
            "seconds": dict.fromkeys(STAGES, 1.0),
            "error": None,
            "dataset": "official",
        }
        rows.append({**facts, **about, "swept": swept, "directory": directory})
    write_trials(rows, folder.root)
    _write_events(folder, trials)
    metrics = results / "metrics"
    metrics.mkdir()
    perf.build(metrics)
    machines = get_year(DCASE).all_machines
    planned = pd.DataFrame(
        [(DCASE, "dis", name, seed, "last", b) for name, _, seed in trials for b in BACKENDS],
        columns=["dcase", *tables.TRIAL_KEYS],
    )
    context = tables.TableContext(
        {DCASE: machines}, "official", {DCASE: "evaluator"}, {b: b for b in BACKENDS}
    )
    scores = tables.sweep_tables(tables.load_rows(sorted(metrics.glob("*.parquet"))), planned, context)
    theirs = published.leaderboard_rows([f"{DCASE}-{subset}" for subset in ("dev", "eval")])
    log = tuple(events.read(folder.events))
    return Content(folder, leaderboard.build(scores, context, extra=theirs), scores, events=log)


def _write_parts(folder: Path) -> None:
    """Files of one trial and machine, which all trials share: their size counts, not their values."""
    import pyarrow as pa

    from asdray import store

    losses = [f"{epoch},{3 / epoch + random.random() / 10}" for epoch in range(1, EPOCHS + 1)]
    store.write_text(folder / "metrics.csv", "\n".join(["epoch,loss", *losses]) + "\n")
    clips = []
    for split, n in (("train", TRAIN), ("test", TEST)):
        lines = [f"clip,machine,section,domain,is_anomaly,{','.join(BACKENDS)}"]
        for i in range(n):
            domain, label = ("source", "target")[i % 2], split == "test" and i % 4 > 1
            name = f"section_00_{domain}_{split}_{('normal', 'anomaly')[label]}_{i:04d}_car_{i % 7}"
            clips.append(f"dev/m/{split}/{name}_spd_{i % 5}.wav")
            values = ",".join(f"{random.gauss(1 + 0.3 * label, 0.2)}" for _ in BACKENDS)
            lines.append(f"{clips[-1]},m,0,{domain},{label},{values}")
        store.write_text(folder / f"{split}_score.csv", "\n".join(lines) + "\n")
    points = {"clip": clips, **{axis: [random.gauss(0, 3) for _ in clips] for axis in "xy"}}
    store.write_parquet(folder / "umap.parquet", pa.table(points))


def _link(made_of: Path, trial: TrialDir, first: bool) -> None:
    """Gives a trial its files as hard links; only those of the first seed are looked at by machine."""
    from asdray.dcase.years import get_year

    wanted = [(made_of / "metrics.csv", trial.model("all-0") / "metrics.csv")]
    for machine in get_year(DCASE).all_machines if first else ():
        wanted += [
            (made_of / f"{s}_score.csv", trial.score_view("last", machine, s)) for s in ("train", "test")
        ]
        wanted.append((made_of / "umap.parquet", trial.umap("last", machine) / "umap.parquet"))
    for source, target in wanted:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, target)


def _write_events(folder: SweepDir, trials: list[tuple[str, int, int]]) -> None:
    from asdray import store
    from asdray.dcase.years import get_year

    lines: list[str] = []
    for i, (name, _, seed) in enumerate(trials):
        head = {"dcase": DCASE, "recipe": "dis", "system": name, "seed": seed, "checkpoint": "last"}
        head |= {"status": "done", "found": False, "device": "cpu", "error": None}
        stages: list[dict[str, Any]] = [{"stage": "train", "unit": "all-0", "seconds": 60.0}]
        for machine in get_year(DCASE).all_machines:
            stages += [
                {"stage": stage, "machine": machine, "seconds": 1.5} for stage in ("extract", "evaluate")
            ]
            stages += [{"stage": "score", "machine": machine, "backend": b, "seconds": 0.4} for b in BACKENDS]
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(1.7e9 + 60 * i))
        lines += [json.dumps({**head, **stage, "time": at}) for stage in stages]
    store.write_text(folder.events, "\n".join(lines) + "\n")


def open_in_browser(path: Path) -> list[float]:
    """Seconds of some openings, each in a new Chromium; empty without Chromium."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        chromium = None
    if chromium is None:
        return []
    found = []
    for _ in range(OPENINGS):
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            start = time.perf_counter()
            page.goto(path.as_uri(), wait_until="load")
            found.append(time.perf_counter() - start)
            page.locator("#machines").scroll_into_view_if_needed()
            page.locator("#machines .main-svg").first.wait_for()
            browser.close()
    return found


def main() -> None:
    from asdray.report import page

    print(runs.describe_machine(), flush=True)
    with tempfile.TemporaryDirectory(prefix="report-") as root:
        content = build(Path(root) / "results")
        start, cpu = time.perf_counter(), time.process_time()
        path = page.write(content)
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        mb = path.stat().st_size / 1e6
        opened = open_in_browser(path)
        text = runs.spread(opened) if opened else "not measured: no Chromium"
        written = f"written in {wall:.1f} s ({cpu:.1f} CPU s)"
        print(f"{SYSTEMS * SEEDS} trials: {mb:.1f} MB (at most {MOST_MB}), {written}")
        print(f"opened in {text} s (at most {MOST_SECONDS})")
        if len(sys.argv) > 1:
            shutil.copy(path, sys.argv[1])
    seconds = statistics.median(opened) if opened else math.nan
    sys.exit(1 if mb > MOST_MB or seconds > MOST_SECONDS else 0)


if __name__ == "__main__":
    main()
