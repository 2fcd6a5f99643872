"""Files of a sweep beside its trials: resolved spec, changes since the last run, tables, leaderboard."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import yaml

from asdray import damage, notes, plugin_results, store
from asdray.aside import remove
from asdray.config.backend import backend_id
from asdray.config.base import loaded_plugin
from asdray.config.files import read_yaml
from asdray.config.stand_in import seen_members
from asdray.config.sweep import Keep, Sweep
from asdray.config.trial import Trial
from asdray.dcase.manifest import Dataset
from asdray.full_disk import raise_storage_fault
from asdray.stages.made_by import Made, mixed_notes
from asdray.stages.steps import Snapshot
from asdray.stages.trial_json import read_inputs
from asdray.store import Places
from asdray.sweep import ensembles
from asdray.sweep.events import OUT_OF_MEMORY, read, split_trainings
from asdray.sweep.jobs import Job, names_of
from asdray.sweep.summaries import made

if TYPE_CHECKING:
    import pandas as pd

    from asdray.evaluation.leaderboard import Leaderboard
    from asdray.evaluation.tables import TableContext
    from asdray.report.content import Content
    from asdray.sweep.study import Studies


def resolved(sweep: Sweep) -> dict[str, Any]:
    """The content of ``sweep.yaml``: every option, with plugins as paths of copies beside the file."""
    spec = sweep.model_dump(mode="json")
    for i, path in enumerate(sweep.plugins):
        plugin = loaded_plugin(path)
        mark = f"-{plugin.sha256[:8]}"
        spec["plugins"][i] = f"plugins/{Path(path).stem.removesuffix(mark)}{mark}{plugin.suffix}"
    return spec


def write_spec(sweep: Sweep, folder: Path) -> None:
    """Writes ``sweep.yaml`` and copies of the plugins, so that later changes of a plugin don't matter."""
    spec = resolved(sweep)
    for path, name in zip(sweep.plugins, spec["plugins"], strict=True):
        for file, content in loaded_plugin(path).files_at(folder / name).items():
            store.write_bytes(file, content)
    describe_plugins(sweep, folder)
    store.write_text(store.SweepDir(folder).spec, yaml.safe_dump(spec, sort_keys=False, width=100))


def describe_plugins(sweep: Sweep, folder: Path) -> None:
    """Writes the descriptions of the plugins, as far as this process has checked their configurations."""
    if sweep.plugins:
        years = [(dcase, machine) for dcase in sweep.years for machine in sweep.machines_of(dcase)]
        seeds = {*sweep.seeds, *(sweep.confirm.seeds if sweep.confirm else ())}
        asked = [(dcase, machine, seed) for dcase, machine in years for seed in sorted(seeds)]
        plugins = [loaded_plugin(path) for path in sweep.plugins]
        plugin_results.write(folder, {p.sha256: seen_members(p, asked) for p in plugins})


def link_for_tensorboard(trial: Trial, places: Places, folder: Path) -> None:
    """Links a trial's models below the sweep's folder, by the trial's title, where the storage has links."""
    for unit in trial.units:
        title = trial.title if len(trial.units) == 1 else f"{trial.title} {unit.name}"
        link = store.SweepDir(folder).tensorboard(title)
        target = os.path.relpath(store.trial_dir(places.results, trial).model(unit.name), link.parent)
        with contextlib.suppress(OSError):
            if link.is_symlink():
                if os.readlink(link) == target:
                    continue
                link.unlink()
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)


# -------------------------------------------------------------------------------------------- the last run


def changes(sweep: Sweep, jobs: Sequence[Job], folder: Path) -> list[str]:
    """Lines on the differences from the last run; none without a difference, or without a last run.

    Args:
        jobs: trials of the sweep; of a search the trials that its study (the search's memory) knows, so none
            at the start of another study.
        folder: the sweep's folder, with ``sweep.yaml`` and ``trials.parquet`` of the last run.
    """
    lines = []
    if (before := _last_spec(folder)) is not None and (keys := list(_changed_keys(before, resolved(sweep)))):
        lines.append(f"changed since the last run: {', '.join(keys)}")
    if last := last_trials(folder):
        now = {(job.trial.dcase, job.trial.system_name, job.trial.seed) for job in jobs}
        new, same, removed = len(now - last.keys()), len(now & last.keys()), len(last.keys() - now)
        if sweep.search.samples and not same:
            lines.append(
                f"the search starts over, since its question has changed: {removed} trials no longer count "
                "(their results stay, and are reused for systems that it samples again)"
            )
        elif new or removed:
            stay = " (their results stay)" if removed else ""
            lines.append(f"trials: {new} new, {same} as before, {removed} no longer asked for{stay}")
    return lines


def _last_spec(folder: Path) -> Mapping[str, Any] | None:
    """The content of ``sweep.yaml`` of the last run; None without a readable file."""
    try:
        value = read_yaml(store.SweepDir(folder).spec)
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def name_in(folder: Path) -> str | None:
    """The sweep's name in its folder's ``sweep.yaml``, in a copy not the folder's name; None if unknown."""
    name = (_last_spec(folder) or {}).get("name")
    return name if isinstance(name, str) else None


def last_keep(folder: Path) -> Keep | None:
    """``keep`` of the last run; None without a readable file."""
    spec = _last_spec(folder)
    try:
        return None if spec is None else Keep.model_validate(spec.get("keep", {}))
    except ValueError:
        return None


def last_trials(folder: Path) -> dict[tuple[str, str, int], str] | None:
    """(dcase, system, seed) -> status of a trial in the last run; None without a ``trials.parquet``."""
    path = store.SweepDir(folder).trials
    try:
        table = damage.read_parquet(path, ("dcase", "system", "seed", "status"))
    except damage.DamagedError as fault:
        notes.tell(f"{path} is damaged ({fault.reason}): the next run of its sweep writes it again")
        return None
    except ValueError:
        return None
    *key, status = (column.to_pylist() for column in table.columns)
    return dict(zip(zip(*key, strict=True), status, strict=True))


def _changed_keys(before: Any, now: Any, path: str = "", depth: int = 3) -> Iterator[str]:
    """Dotted paths, of at most ``depth`` keys, of the options that differ: ``search.num_samples``."""
    if isinstance(before, Mapping) and isinstance(now, Mapping) and depth:
        for key in dict.fromkeys((*before, *now)):
            yield from _changed_keys(
                before.get(key), now.get(key), f"{path}.{key}".removeprefix("."), depth - 1
            )
    elif before != now and not (before is None and not now):  # a key that an older release did not write
        yield path


# ---------------------------------------------------------------------------------- tables and leaderboard


def write_results(
    sweep: Sweep, jobs: Sequence[Job], places: Places, *, rank_by: str | None = None, report: bool = False
) -> Leaderboard:
    """Writes tables and leaderboard over the trials with finished tables; the other trials count as missing.

    Older files are removed: tables of years that the sweep no longer has, and files of `write_metric`.

    Args:
        rank_by: the ranking column; default: the sweep's own ``rank_by``.
        report: True to write ``report.html`` and the pictures too; they need ``trials.parquet``.

    Raises:
        ValueError: an unknown ``rank_by``.
    """
    from asdray.evaluation import leaderboard, published, tables

    content = _content(sweep, jobs, places, "official", rank_by)
    folder, board = content.folder, content.board
    if content.selection is not None:
        tables.write_csv(content.selection, folder.selection, board.dataset)
    written = tables.write_tables(content.tables, folder.tables, board.dataset)
    written += leaderboard.write(board, folder.root)
    if len(beside := published.beside(board)):
        written += leaderboard.write_beside(beside, board, folder.root)
    for path in folder.replaceable():
        if path not in written:
            remove(path)
    if report:
        _write_report(content)
    return board


def _write_report(content: Content) -> None:
    """Writes report and pictures. A fault, but for one of the disk, is told and changes no exit code."""
    from asdray.report import page, pictures

    content = replace(content, events=tuple(read(content.folder.events)))
    for things, write in (("the report is", page.write), ("the pictures are", pictures.write)):
        try:
            write(content)
        except Exception as error:  # the tables are written, and right
            raise_storage_fault(error, content.folder.root)
            notes.tell(f"{content.folder.root}: {things} not written ({type(error).__name__}: {error})")


def preload_report() -> None:
    """Imports the modules of the report, which take two seconds."""
    import matplotlib.backends.backend_agg  # noqa: F401
    import scipy.stats  # noqa: F401

    from asdray.report import page, pictures  # noqa: F401


def write_metric(
    sweep: Sweep, jobs: Sequence[Job], places: Places, metric: str, *, rank_by: str | None = None
) -> Leaderboard:
    """Writes tables and leaderboard of another metric, such as ``tables/s_auc23-dev.csv``, on request.

    The next `write_results` removes them.

    Raises:
        ValueError: an unknown metric or ``rank_by``.
    """
    from asdray.evaluation import leaderboard, tables

    content = _content(sweep, jobs, places, tables.check_metric(metric), rank_by)
    tables.write_tables(content.tables, content.folder.tables, content.board.dataset, metric)
    leaderboard.write(content.board, content.folder.root)
    return content.board


def write_report_beside(
    sweep: Sweep,
    jobs: Sequence[Job],
    places: Places,
    theirs: Sequence[Mapping[Any, Any]],
    *,
    rank_by: str | None = None,
) -> Leaderboard:
    """Writes report and pictures with other people's rows in the leaderboard, which is returned; no table.

    Args:
        theirs: see `asdray.sweep.bundle.rows_beside`.
    """
    content = _content(sweep, jobs, places, "official", rank_by, theirs)
    _write_report(content)
    return content.board


def _content(
    sweep: Sweep,
    jobs: Sequence[Job],
    places: Places,
    metric: str,
    rank_by: str | None,
    theirs: Sequence[Mapping[Any, Any]] = (),
) -> Content:
    """The tables of one metric, the leaderboard, and the rows of ``selection.csv``, None without a choice.

    Args:
        theirs: rows of other people.
    """
    from asdray.evaluation import leaderboard, published, tables
    from asdray.report.content import Content
    from asdray.sweep import selection

    of_path = {store.trial_dir(places.results, job.trial).metrics: job for job in jobs}
    snapshots = {path: _finished(job, sweep, places) for path, job in of_path.items()}
    finished = [path for path, snapshot in snapshots.items() if snapshot]
    trials = [job.trial for job in jobs]
    studies, datasets, planned = _planned(sweep, jobs, places)
    context = table_context(sweep, jobs, datasets)
    scores = tables.sweep_tables(tables.load_rows(finished, metric), planned, context, metric)
    official = scores
    if metric != "official" and sweep.ensembles:  # the official score chooses the members of ensembles
        official = tables.sweep_tables(tables.load_rows(finished), planned, context)
    combined, ensemble_notes = ensembles.make(sweep, trials, datasets, places, official, context)
    extra = ensembles.leaderboard_rows(combined, context, metric)
    if context.dataset == "official":
        whole = [f"{d}-{s}" for d, s in scores if tables.coverage(d, s, context.machines[d]) == "all"]
        extra = published.leaderboard_rows(whole, metric) + extra
    chosen = None
    if studies is not None:
        own = [job.trial for job in jobs if job.part == "search"]
        chosen = selection.select(studies, own, finished, context, metric)
    board = leaderboard.build(
        scores,
        context,
        rank_by=rank_by or sweep.rank_by,
        unlabelled=[f"{dcase}-{s}" for dcase, s in scores if _unlabelled(datasets[dcase], s, context)],
        extra=[*extra, *theirs],
        unranked=chosen.rows if chosen else (),
        selected_by=chosen.selected_by if chosen else "fixed",
        metric=metric,
    )
    rows, notes = (chosen.frame, chosen.notes) if chosen else (None, ())
    if sweep.choose_by is not None:
        rows, note = selection.of_grid(board, sweep.choose_by)
        notes = (note,)
    notes = (*board.notes, *ensemble_notes, *notes, *_weights_notes(jobs, places), *(sweep.notes or ()))
    if len(set().union(*(snapshot.sources for snapshot in snapshots.values() if snapshot))) > 1:
        notes += tuple(_source_notes([of_path[path] for path in finished], sweep, places))
    notes += tuple(memory_notes(store.SweepDir(store.sweep_dir(places.results, sweep.name)).events, jobs))
    board = replace(board, notes=notes, recipes=sweep.recipes, labels=names_of(jobs))
    folder = store.SweepDir(store.sweep_dir(places.results, sweep.name))
    shown = chosen.tables if chosen and not sweep.confirm else scores
    return Content(folder, board, shown, rows, studies.studies if studies else {})


def _finished(job: Job, sweep: Sweep, places: Places) -> Snapshot | None:
    """The records of a trial that has its table, else None; a damaged table is made from the evaluations."""
    from asdray.stages.table import table

    files = job.files(places)
    snapshot = Snapshot(files)
    if not snapshot.table(sweep.checkpoints).complete:
        return None
    try:
        with damage.forgotten():
            damage.check(files.folder.metrics)
    except damage.DamagedError as fault:
        notes.tell(f"{fault.path} is damaged ({fault.reason}): made again")
        try:
            table(files, sweep.checkpoints, job.backends)
        except damage.DamagedError as another:  # an evaluation, which the next run makes again
            notes.tell(str(another))
            return None
    return snapshot


def _source_notes(jobs: Sequence[Job], sweep: Sweep, places: Places) -> list[str]:
    """A sentence per source of asdray that made some results and differs from that of the others."""
    systems: dict[str, list[Made]] = {}
    for job in jobs:
        systems.setdefault(job.trial.system_name, []).extend(made(job, sweep, places))
    return mixed_notes(systems, places.results)


def _weights_notes(jobs: Sequence[Job], places: Places) -> list[str]:
    """A sentence per weight file of an encoder: its name and hash, and the recipes that read it."""
    readers: dict[tuple[str, str], dict[str, None]] = {}
    for trial in {job.trial.system_name: job.trial for job in jobs}.values():
        files = trial.system.frontend.input_files(trial.dcase, trial.machines[0], trial.seed)
        names = ", ".join(PurePath(file.path).name for file in files if file.kind.startswith("encoder"))
        if files:
            inputs = read_inputs(store.trial_dir(places.results, trial))
            for file in [file for kind in inputs if kind.startswith("encoder") for file in inputs[kind]]:
                made_up = trial.system.frontend.has_made_up_weights
                unknown = "drawn at random, in the file" if made_up else "of the unknown file"
                key = file.get("name") or f"{unknown} {names}", file.get("sha256") or ""
                readers.setdefault(key, {})[trial.recipe] = None
    return [
        f"Weights {name} (sha256 {sha256[:16]}): {', '.join(recipes)}."
        for (name, sha256), recipes in readers.items()
    ]


def memory_notes(log: Path, jobs: Sequence[Job]) -> list[str]:
    """A sentence per recipe and size of batch that ran out of memory."""
    trials = {(job.trial.dcase, job.trial.system_name, job.trial.seed) for job in jobs}
    units: dict[tuple[str, ...], set[tuple]] = {}
    for event in split_trainings(log):
        trial = event["dcase"], event["system"], event["seed"]
        sizes = [f"{of['batch_size']} x {of['accumulate']}" for of in event[OUT_OF_MEMORY].values()]
        if trial in trials:
            units.setdefault((event["recipe"], event["device"], *sizes), set()).add((*trial, event["unit"]))
    return [
        f"Out of memory: {len(trained)} trainings of {recipe} on {device} had batches of {used} instead of "
        f"{asked} (clips x batches per step)."
        for (recipe, device, asked, used), trained in units.items()
    ]


def _planned(
    sweep: Sweep, jobs: Sequence[Job], places: Places
) -> tuple[Studies | None, dict[str, Dataset], pd.DataFrame]:
    """The studies of a search, the datasets of the leaderboard's years, and the rows of a complete sweep."""
    from asdray.evaluation import tables
    from asdray.sweep import selection
    from asdray.sweep.search import read_studies

    studies, datasets = None, {job.trial.dcase: job.dataset for job in jobs}
    if sweep.search.samples:
        studies = read_studies(sweep, places)
        datasets = dict(studies.datasets)
        planned = selection.confirmed_rows(studies)
    else:
        planned = tables.planned_rows([job.trial for job in jobs], sweep.checkpoints, sweep.backends)
    return studies, {dcase: datasets[dcase] for dcase in sweep.board_years if dcase in datasets}, planned


def table_context(sweep: Sweep, jobs: Sequence[Job], datasets: Mapping[str, Dataset]) -> TableContext:
    """Everything but scores that the tables of a sweep show."""
    from asdray.evaluation import tables

    machines = {dcase: sweep.machines_of(dcase) for dcase in sweep.board_years}
    systems: dict[str, Trial] = {}
    swept: dict[str, dict[str, Mapping[str, Any]]] = {}
    for job in jobs:
        systems[job.trial.system_name] = job.trial
        swept.setdefault(job.trial.recipe, {})[job.trial.system_name] = job.swept
    options: dict[str, str] = {}
    for of_recipe in swept.values():
        options |= tables.option_labels(of_recipe)
    sources = {
        dcase: "+".join(sorted({s for m in machines[dcase] for s in dataset.machines[m].label_sources}))
        for dcase, dataset in datasets.items()
    }
    return tables.TableContext(
        machines=machines,
        dataset=tables.one_dataset({dcase: dataset.kind for dcase, dataset in datasets.items()}),
        label_sources=sources,
        labels=tables.backend_labels({backend_id(b): b.model_dump() for job in jobs for b in job.backends}),
        options=options,
        best_by={name: _best_by(trial) for name, trial in systems.items()},
        classes_from={name: t.system.frontend.classes_from for name, t in systems.items()},
    )


def _best_by(trial: Trial) -> str:
    """The loss whose minimum chooses the checkpoint ``best`` of a trial; ``fixed`` without training."""
    if not trial.system.frontend.learns:
        return "fixed"
    return "held_out_loss" if getattr(trial.system.frontend, "validation", 0) else "train_loss"


def _unlabelled(dataset: Dataset, subset: str, context: TableContext) -> bool:
    """True if test clips of the subset lack labels."""
    return any(
        dataset.machines[m].count(subset=subset, split="test", label="unknown")
        for m in context.machines[dataset.dcase]
    )
