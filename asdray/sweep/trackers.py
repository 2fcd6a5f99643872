"""Experiment trackers beside a run: TensorBoard, W&B, MLflow and CSV files, through Lightning's own loggers.

A trial that does work in a run of its sweep is one run of every tracker: the configuration at the start, the
epochs while the trial trains, the scores at its end. Everything comes from the trial's files, so that a
training that was interrupted before is told from its first epoch. A thread talks to the trackers: a tracker
that is slow or fails delays no trial, and is left out for the rest of the run.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import logging
import os
import queue
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asdray import store
from asdray.config.sweep import LoggerName
from asdray.dcase.years import SUBSETS
from asdray.results import flat
from asdray.stages.steps import checkpoint_folders
from asdray.store import Places
from asdray.sweep.jobs import Job

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

PATIENCE, SHORT_PATIENCE = 60.0, 10.0
"""Seconds that the trackers have for what they have not written yet, at the end of a run and after a stop."""

SLOW = 3.0
"""Seconds after which whoever waits for the trackers is told so."""

_PACKAGES: Mapping[LoggerName, str] = {"wandb": "wandb", "mlflow": "mlflow"}
"""Tracker -> package that an extra installs."""

_NOISY = ("lightning", "lightning.pytorch", "lightning.fabric", "mlflow", "wandb")


def check_installed(names: Sequence[LoggerName]) -> None:
    """Raises ValueError for a tracker whose package is not installed."""
    for name in names:
        if name in _PACKAGES and importlib.util.find_spec(_PACKAGES[name]) is None:
            raise ValueError(
                f"loggers: {name} needs a package that is not installed: pip install 'asdray[{name}]', or "
                f"leave {name} out"
            )


class Trackers:
    """The trackers of one run of a sweep.

    Args:
        names: the trackers; none does nothing. The thread starts with the first news.
        sweep: name of the sweep, which groups the runs.
        folder: folder of the trackers that write files.
    """

    def __init__(self, names: Sequence[LoggerName], sweep: str, folder: Path, places: Places) -> None:
        self._names = list(names)
        self._sweep, self._folder, self._places = sweep, folder, places
        self._news: queue.SimpleQueue[tuple[str, Job] | None] = queue.SimpleQueue()
        self._faults: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._open: dict[str, _Tracked] = {}
        self._left_out: set[str] = set()
        self._thread = threading.Thread(target=self._work, name="trackers", daemon=True)

    def epoch(self, job: Job) -> None:
        """Notes a new epoch of a trial."""
        self._put("epoch", job)

    def ended(self, job: Job, status: str) -> None:
        """Notes the end of a trial: ``success`` or ``failed``."""
        self._put(status, job)

    def _put(self, kind: str, job: Job) -> None:
        if self._names:
            if self._thread.ident is None:
                self._thread.start()
            self._news.put((kind, job))

    def faults(self) -> Iterator[str]:
        """Sentences on trackers that failed and on trials that cannot be read, each once."""
        while not self._faults.empty():
            yield self._faults.get()

    def close(self, patience: float = PATIENCE, say: Callable[[str], None] = lambda text: None) -> None:
        """Ends the runs of trials that are not finished, and waits until all is written.

        Args:
            say: is called with a sentence if that takes more than `SLOW` seconds.
        """
        if not self._thread.is_alive():
            return
        self._news.put(None)
        self._thread.join(SLOW)
        names = ", ".join(self._names)
        if self._thread.is_alive():
            say(f"loggers: waiting up to {patience:g} s for {names} to write everything")
            self._thread.join(max(0.0, patience - SLOW))
        if self._thread.is_alive():
            self._faults.put(
                f"loggers: {names} had not written everything after {patience:g} s; no result is affected"
            )

    # ------------------------------------------------------------------------------------- in the thread

    def _work(self) -> None:
        for name in _NOISY:
            logging.getLogger(name).setLevel(logging.ERROR)
        while self._names and (news := self._news.get()) is not None:
            self._tell(*news)
        for tracked in [*self._open.values()]:
            self._tell("failed", tracked.job)

    def _tell(self, kind: str, job: Job) -> None:
        """Tells the trackers the news of a trial; a trial with a damaged file is left out from now on."""
        name = job.trial.name
        if name in self._left_out:
            return
        try:
            if (tracked := self._open.get(name)) is None:
                tracked = self._open[name] = _Tracked(job, self._places)
                self._each(tracked, lambda logger, one: logger.log_hyperparams(one.configuration))
            self._each(tracked, _log, tracked.new_epochs())
            if kind != "epoch":
                self._end(tracked, kind, tracked.scores())
        except Exception as error:  # of the trial's files: `_each` handles those of trackers
            self._left_out.add(name)
            self._faults.put(
                f"loggers: {job.trial.title} is left out, no result is affected: {_reason(error)}"
            )
            if name in self._open:
                self._end(self._open[name], "failed", {})

    def _end(self, tracked: _Tracked, status: str, scores: Mapping[str, float]) -> None:
        """Ends the trial's run of every tracker."""
        del self._open[tracked.job.trial.name]

        def end(logger: Any, of: _Tracked) -> None:
            _log_scores(logger, of.configuration, scores)
            logger.finalize(status)
            if hasattr(logger.experiment, "finish"):  # W&B
                logger.experiment.finish(exit_code=int(status != "success"))

        self._each(tracked, end)

    def _each(self, tracked: _Tracked, action: Any, *more: Any) -> None:
        """Calls ``action`` with the logger of every tracker; a tracker that fails is left out from now on."""
        for name in [*self._names]:
            try:
                if name not in tracked.loggers:
                    tracked.loggers[name] = _make(name, self._sweep, tracked.job, self._folder)
                action(tracked.loggers[name], tracked, *more)
            except Exception as error:
                self._names.remove(name)
                self._faults.put(
                    f"loggers: {name} is left out for the rest of this run, no result is affected: "
                    f"{_reason(error)}"
                )


class _Tracked:
    """A trial as the trackers know it.

    Attributes:
        loggers: tracker -> Lightning's logger of the trial's run.
        configuration: option path -> value; the trial's names first.
    """

    def __init__(self, job: Job, places: Places) -> None:
        self.job = job
        self.loggers: dict[str, Logger] = {}
        trial = job.trial
        names = {"dcase": trial.dcase, "recipe": trial.recipe, "system": trial.system.id, "seed": trial.seed}
        options = flat(trial.system.model_dump(mode="json"))
        self.configuration = {**names, "machines": ",".join(trial.machines), **options}
        self._folder = job.files(places).folder
        self._told: dict[str, int] = {}

    def new_epochs(self) -> list[tuple[int, dict[str, float]]]:
        """(Epoch, values by name) of every epoch that was not returned before, by unit."""
        found = []
        for unit in self.job.trial.units:
            prefix = "train" if len(self.job.trial.units) == 1 else f"train/{unit.name}"
            with _rows(self._folder.model(unit.name) / store.EPOCHS_FILE) as rows:
                for row in rows[self._told.get(unit.name, 0) :]:
                    epoch = int(row.pop("epoch"))
                    found.append((epoch, {f"{prefix}/{k}": float(text) for k, text in row.items() if text}))
                self._told[unit.name] = len(rows)
        return found

    def scores(self) -> dict[str, float]:
        """Score by ``<subset>/<backend>/<machine or total>``; of ``best`` or an epoch after its name."""
        from asdray.evaluation.tables import table_name

        found: dict[str, float] = {}
        for folder in checkpoint_folders(self._folder):
            for subset in SUBSETS:
                with _rows(folder / table_name(self.job.trial.dcase, subset)) as rows:
                    for row in rows:
                        at = f"{subset}/{re.sub(r'[^a-zA-Z0-9_. -]+', '_', row['backend']).strip('_')}"
                        at = at if folder.name == "last" else f"{folder.name}/{at}"
                        machines = [*self.job.trial.machines, "total"]
                        found |= {f"{at}/{m}": float(row[m]) for m in machines if row.get(m)}
        return found


def _reason(error: Exception) -> str:
    """An error in one line."""
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def _rows(path: Path) -> Iterator[list[dict[str, str]]]:
    """The rows of a CSV file, which are used inside the block; none without the file.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        rows = []
        if path.exists():
            with open(path, newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        yield rows
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise ValueError(f"{path} is damaged ({_reason(error)})") from error


# --------------------------------------------------------------------------------------- Lightning's loggers


def _log(logger: Logger, tracked: _Tracked, epochs: Sequence[tuple[int, dict[str, float]]]) -> None:
    for epoch, values in epochs:
        logger.log_metrics(values, step=epoch)
    logger.save()


def _log_scores(logger: Logger, configuration: Mapping[str, Any], scores: Mapping[str, float]) -> None:
    """Writes the scores; to TensorBoard together with the configuration, as its page HParams wants both."""
    from lightning.pytorch.loggers import TensorBoardLogger

    if isinstance(logger, TensorBoardLogger):
        logger.log_hyperparams(dict(configuration), dict(scores))
    elif scores:
        logger.log_metrics(dict(scores))


def _make(name: str, sweep: str, job: Job, folder: Path) -> Logger:
    """Lightning's logger of a trial's run."""
    import asdray.stages.torchmetrics  # noqa: F401 - before Lightning, which imports torchmetrics

    # isort: split
    from lightning.fabric.utilities.rank_zero import rank_zero_only
    from lightning.pytorch import loggers

    # Also in other processes of a launcher (RANK, SLURM_PROCID), in which loggers write nothing.
    rank_zero_only.rank = 0  # type: ignore[attr-defined]
    trial = job.trial
    directory = f"{trial.system_name} {trial.dcase} seed{trial.seed}".replace(" ", "-")
    match name:
        case "tensorboard" | "csv":
            shutil.rmtree(folder / name / directory, ignore_errors=True)  # of an earlier run of the trial
            if name == "csv":
                return loggers.CSVLogger(folder / name, name=directory, version="")
            return loggers.TensorBoardLogger(folder / name, directory, "", default_hp_metric=False)
        case "mlflow":
            uri = os.environ.get("MLFLOW_TRACKING_URI")
            if not uri:
                uri = (folder / "mlruns").absolute().as_uri()
                os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # else MLflow 3 refuses files
            return loggers.MLFlowLogger(sweep, trial.title, uri, tags={"trial": trial.name})
        case _:
            return _wandb(sweep, job, folder)


def _wandb(sweep: str, job: Job, folder: Path) -> Logger:
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    if wandb.setup().settings.mode == "online" and not wandb.api.api_key:
        raise ValueError("no API key: run `wandb login`, or set WANDB_MODE=offline")
    folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "asdray"),
        group=sweep,
        name=job.trial.title,
        dir=folder,
        reinit="create_new",  # several trials train at once
        settings=wandb.Settings(console="off", silent=True),
    )
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return WandbLogger(experiment=run)
