"""``--dry-run``: every trial with its state and remaining work, and an estimate of time and disk space."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from asdray.config.sweep import Need, Sweep
from asdray.stages.steps import Step
from asdray.store import Places, SweepDir, sweep_dir
from asdray.sweep.changes import changes
from asdray.sweep.estimate import Estimate, Estimator, StageSum, depends_on, sum_stages
from asdray.sweep.events import History
from asdray.sweep.jobs import Job, Remaining, remaining
from asdray.sweep.keep import kept_shares
from asdray.sweep.progress import duration
from asdray.sweep.summary import read_summary


def plan_lines(
    sweep: Sweep,
    jobs: Sequence[Job],
    places: Places,
    only: Callable[[Job], bool] = lambda job: True,
    retry_failed: bool = False,
) -> list[str]:
    """Changes since the last run, every trial with its remaining work, the totals, and an estimate.

    Args:
        only: the trials that are asked for; the other trials serve the estimate alone.
        retry_failed: True if failed steps are tried again.
    """
    folder = sweep_dir(places.results, sweep.name)
    lines = changes(sweep, jobs, folder)
    history = History(SweepDir(folder).events)
    failures = {} if retry_failed else history.lasting
    estimator = Estimator(kept_shares(sweep, jobs))
    search_lines: list[str] = []
    stopped: set[str] = set()
    if sweep.search.samples:
        from asdray.sweep.search import outlook, read_studies, stopped_trials, upcoming_systems

        studies, _ = read_studies(sweep, places)
        stopped = stopped_trials(studies, jobs)
        estimator.upcoming = upcoming_systems(studies)
        search_lines = outlook(studies)
    totals: Counter[str] = Counter()
    threads = 1
    for job in jobs:
        complete = read_summary(job, sweep, places)
        steps = [] if complete is not None else job.steps(sweep, places)
        done = [step for step in steps if step.complete]
        is_done = len(done) == len(steps)
        given_up = job.trial.name in stopped and not is_done
        left = remaining(job.trial, steps, failures)
        _estimate_trial(estimator, job, steps, left, complete, only(job) and not given_up)
        if not only(job):
            continue
        if given_up:
            totals["trials"] += 1
            lines.append(f"{job.trial.name}: stopped by the scheduler")
            continue
        if left.units:
            threads = max(threads, job.trial.system.train.threads)
        totals += Counter(
            trials=1,
            done=is_done,
            with_work=left.runs,
            failed=bool(left.failed),
            trainings=len(left.units),
            machines=len(left.machines),
            umaps=len(left.umaps),
            rebuilt=left.rebuilt.total(),
        )
        lines.append(f"{job.trial.name}: {'done' if is_done else _state(left, begun=bool(done))}")
    lines.append(
        f"{totals['trials']} trials, {totals['done']} done, {totals['failed']} failed before; left: "
        f"{totals['trainings']} trainings, {totals['machines']} machines to extract and score, "
        f"{totals['umaps']} UMAPs"
    )
    if totals["rebuilt"]:
        lines.append(
            f"{totals['rebuilt']} of the trainings and extractions are rebuilt: their outputs were pruned "
            "(keep: ...), and a new stage reads them"
        )
    lines += search_lines
    if totals["with_work"] or estimator.upcoming:
        lines.append(_estimate(estimator.estimate(), threads, sweep.resources.train))
    return lines


def _estimate_trial(
    estimator: Estimator,
    job: Job,
    steps: Sequence[Step],
    left: Remaining,
    complete: Mapping[str, StageSum] | None,
    asked: bool,
) -> None:
    """Adds a trial to the estimate: by its steps, or by the summary of a complete trial."""
    if complete is not None:
        estimator.add_sums(job.trial.recipe, complete, {}, asked)
        return
    missing = [step for step in steps if not step.complete]
    failed = [s for s in missing if any(depends_on(job.trial, s.key, event) for event in left.failed)]
    kinds = (
        [step for step in steps if step.complete],
        [step for step in missing if step not in failed],
        failed,
    )
    done, open_, blocked = (sum_stages(job.trial, job.dataset, kind) for kind in kinds)
    estimator.add_sums(job.trial.recipe, done, open_, asked, blocked)


def _state(left: Remaining, begun: bool) -> str:
    """``waiting: train fan, score 2 machines, umap 2, table``."""
    parts = [f"train {unit.name}" for unit in left.units]
    rebuilt = left.rebuilt
    parts += [f"{rebuilt['train']} of these rebuilt (checkpoint pruned)"] if rebuilt["train"] else []
    parts += [f"extract {rebuilt['extract']} machines again (pruned)"] if rebuilt["extract"] else []
    parts += [f"score {len(left.machines)} machines"] if left.machines else []
    parts += [f"umap {len(left.umaps)}"] if left.umaps else []
    parts += ["table"] if left.table and (left.runs or not left.failed) else []
    for event in left.failed:
        place = event["machine"] or event["unit"]
        parts.append(f"failed before: {event['stage']}{f' {place}' if place else ''}")
    state = "failed" if left.failed else "begun" if begun else "waiting"
    return f"{state}: {', '.join(parts)}"


def _estimate(left: Estimate, threads: int, asked: Need | None) -> str:
    if (left.unknown_stages or left.unknown_systems) and not (left.train_seconds or left.task_seconds):
        return "no estimate of time and disk yet: nothing like it is finished"
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    trainings = max(1, cpus // threads)
    if asked and asked.per_node:
        trainings = min(trainings, asked.per_node)
    wall = left.wall_seconds(trainings, max(1, cpus // 2), cpus)
    text = (
        f"about {duration(left.train_seconds)} of training and {duration(left.task_seconds)} of other work, "
        f"one after the other; {duration(wall)} on {cpus} cores like this machine's; "
        f"{size(left.bytes)} of disk"
    )
    if left.unknown_stages:
        text += f"; and {left.unknown_stages} stages of which nothing like it is finished"
    if left.unknown_systems:
        text += f"; without {left.unknown_systems} systems to come, of whose recipes no trial is finished"
    return text


def size(n: float) -> str:
    """Bytes for people: ``12 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if n >= 10 or unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"
