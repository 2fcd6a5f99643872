"""``--dry-run``: every trial and its state, what is to be done, and about how long and how large that is."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from asdray.config.sweep import Need, Sweep
from asdray.store import Places, SweepDir, sweep_dir
from asdray.sweep.changes import changes
from asdray.sweep.estimate import Estimate, Estimator, StageSum, depends_on, sum_stages
from asdray.sweep.events import History
from asdray.sweep.jobs import Job
from asdray.sweep.live import duration
from asdray.sweep.pieces import kept_shares
from asdray.sweep.seen import Settled, told
from asdray.sweep.standing import Missing, Standing


class _Told(NamedTuple):
    """What the process that looked at a trial says of it."""

    complete: bool
    begun: bool
    missing: Missing
    done: Mapping[str, StageSum]
    left: Mapping[str, StageSum]
    lost: Mapping[str, StageSum]


def plan_lines(
    sweep: Sweep,
    jobs: Sequence[Job],
    places: Places,
    only: Callable[[Job], bool] = lambda job: True,
    retry_failed: bool = False,
) -> list[str]:
    """What changed since the last run, every trial with what is left of it, the sums, and an estimate.

    Args:
        only: the trials that are asked for; the others help to estimate.
        retry_failed: whether what failed before is to be tried again.
    """
    folder = sweep_dir(places.results, sweep.name)
    lines = changes(sweep, jobs, folder)
    totals: Counter[str] = Counter()
    estimator = Estimator(kept_shares(sweep, jobs))
    history = History(SweepDir(folder).events)
    failures = {} if retry_failed else history.lasting
    threads = []
    search = None
    stopped: set[str] = set()
    if sweep.search.samples:
        from asdray.sweep.search import outlook, read_studies, stopped_trials, to_come

        search, _ = read_studies(sweep, places)
        stopped = stopped_trials(search, jobs)
        estimator.upcoming = to_come(search)

    def tell(job: Job, stands: Standing | Settled) -> _Told:
        if isinstance(stands, Settled):
            return _Told(True, True, Missing(), stands.sums, {}, {})
        missing = stands.missing(failures)
        done, undone = [stage for stage in stands.all if stage.done], stands.open
        lost = {s for s in undone if any(depends_on(job.trial, s[:5], e) for e in missing.failed)}
        left = [stage for stage in undone if stage not in lost]
        of_all = (sum_stages(job.trial, job.dataset, stages) for stages in (done, left, lost))
        return _Told(stands.complete, bool(done), missing, *of_all)

    for job, one in zip(jobs, told(jobs, sweep, places, tell), strict=True):
        chosen = only(job)
        given_up = job.trial.name in stopped and not one.complete
        estimator.add_sums(job.trial.recipe, one.done, one.left, chosen and not given_up, one.lost)
        if not chosen:
            continue
        if given_up:
            totals["trials"] += 1
            lines.append(f"{job.trial.name}: stopped by the scheduler")
            continue
        missing = one.missing
        if missing.units:
            threads.append(job.trial.system.train.threads)
        totals += Counter(
            trials=1,
            done=one.complete,
            with_work=missing.runs,
            failed=bool(missing.failed),
            trainings=len(missing.units),
            machines=len(missing.machines),
            umaps=len(missing.umaps),
            again=missing.again.total(),
        )
        lines.append(f"{job.trial.name}: {_state(missing, one.complete, one.begun)}")
    lines.append(
        f"{totals['trials']} trials, {totals['done']} done, {totals['failed']} failed before; left: "
        f"{totals['trainings']} trainings, {totals['machines']} machines to extract and score, "
        f"{totals['umaps']} UMAPs"
    )
    if totals["again"]:
        lines.append(
            f"{totals['again']} of the trainings and extractions are done again: what they made was dropped "
            "(keep: ...), and something new is to read it"
        )
    if search:
        lines += outlook(search)
    if totals["with_work"] or estimator.upcoming:
        lines.append(_estimate(estimator.estimate(), max(threads, default=1), sweep.resources.train))
    return lines


def _state(missing: Missing, complete: bool, begun: bool) -> str:
    """``waiting: train fan, score 2 machines, umap 2, table``."""
    if complete:
        return "done"
    parts = [f"train {u.name}" for u in missing.units]
    again = missing.again
    parts += [f"{again['train']} of these again (checkpoint dropped)"] if again["train"] else []
    parts += [f"extract {again['extract']} machines again (dropped)"] if again["extract"] else []
    parts += [f"score {len(missing.machines)} machines"] if missing.machines else []
    parts += [f"umap {len(missing.umaps)}"] if missing.umaps else []
    parts += ["table"] if missing.table and (missing.runs or not missing.failed) else []
    for event in missing.failed:
        what = event["machine"] or event["unit"]
        parts.append(f"failed before: {event['stage']}{f' {what}' if what else ''}")
    state = "failed" if missing.failed else "begun" if begun else "waiting"
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
        text += f"; without {left.unknown_systems} systems to come, like which none is finished"
    return text


def size(n: float) -> str:
    """Bytes for people: ``12 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if n >= 10 or unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"
