"""Training of a unit: packs of training clips -> checkpoints and logs in ``model/<unit>/``.

An interrupted training goes on from ``last.ckpt`` and then equals an undisturbed one, because every epoch
draws its random choices from generators of its own.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import math
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asdray import damage, provenance, store
from asdray.aside import remove
from asdray.config.plugin_members import Known
from asdray.config.train import Train
from asdray.config.trial import Trial, Unit
from asdray.full_disk import storage_fault_named
from asdray.stages.cluster import cluster_column
from asdray.stages.columns import (
    classes_of_test_clips,
    clip_keys,
    held_out_generator,
    training_columns,
    training_packs,
)
from asdray.stages.held_out import trained
from asdray.stages.input_files import input_paths
from asdray.stages.steps import Outcome, Snapshot, Step, TrialFiles, working

if TYPE_CHECKING:
    from asdray.audio.batches import Clips
    from asdray.frontends.base import FrontendModule, TrainingData
    from asdray.stages.optimiser import Plan


TIMES = ("seconds", "per_second")
"""Columns of ``metrics.csv`` that differ between two runs of the same training; no checkpoint holds them."""

METRICS = ("epoch", "loss", "learning_rate", *TIMES)
"""Columns of ``metrics.csv``; ``per_second`` counts clips (discriminative) or vectors (autoencoder). A column
``validation_loss`` follows if the frontend holds data out from training. The learning rate is that of the
epoch's last step, in the first parameter group."""


class TrainingDiverged(ValueError):  # noqa: N818 - named after the event
    """A loss or a weight is no longer a finite number; training again would end the same way."""


@dataclass(frozen=True)
class UnitTraining:
    """The training of one unit of a trial: its identity and its files.

    Attributes:
        checkpoints: names of the checkpoints to write: ``last``, ``best``, ``epoch_<k>``.
        signature: the training's signature, which every checkpoint holds.
        parts: the number of parts in which each batch is computed: above 1 after a lack of memory.
    """

    files: TrialFiles
    unit: Unit
    checkpoints: tuple[str, ...]
    signature: str
    parts: int = 1

    @property
    def trial(self) -> Trial:
        return self.files.trial

    @property
    def folder(self) -> Path:
        """``model/<unit>`` in the trial's folder."""
        return self.files.folder.model(self.unit.name)

    @property
    def batches(self) -> dict[str, int]:
        """The size of a batch, and batches per step: as asked for, or smaller with the same product."""
        options = self.trial.system.train
        return {
            "batch_size": options.batch_size // self.parts,
            "accumulate": options.accumulate * self.parts,
        }

    def in_smaller_parts(self, largest: int | None = None) -> UnitTraining | None:
        """The same training with a batch in more parts of equal size; None if no part of two items is left.

        Args:
            largest: size of the largest batch that fits into memory; default: about half the present size.
        """
        size = self.trial.system.train.batch_size
        parts = range(self.parts + 1, size // 2 + 1)
        fitting = (n for n in parts if size % n == 0 and (largest is None or size // n <= largest))
        more = next(fitting, None)
        return replace(self, parts=more) if more else None

    def checkpoint(self, name: str) -> Path:
        """The file of a checkpoint."""
        return self.files.folder.checkpoint(self.unit.name, name)

    def write_metrics(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Writes ``metrics.csv``, one row per epoch, numbers in full precision, unknown times empty."""
        path = self.folder / store.EPOCHS_FILE
        names = [*METRICS, *(name for row in history[:1] for name in row if name not in METRICS)]
        with store.atomic_path(path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(names)
            writer.writerows([row[name] for name in names] for row in history)

    @staticmethod
    def best(history: Sequence[Mapping[str, Any]]) -> int:
        """The epoch of lowest loss: of validation if data are held out, else of training."""
        return min(history, key=lambda row: row.get("validation_loss", row["loss"]))["epoch"]

    def stopped_early(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """True if ``early_stopping`` ends the training after these epochs."""
        options = self.trial.system.train.early_stopping
        if options is None:
            return False
        lowest, waited = math.inf, 0
        for row in history:
            waited += 1
            if row["validation_loss"] < lowest - options.min_delta:
                lowest, waited = row["validation_loss"], 0
        return waited >= options.patience

    def is_over(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """True if no epoch follows; with ``steps`` the number of epochs is known to `Plan` alone."""
        epochs = self.trial.system.train.epochs
        return (epochs is not None and len(history) >= epochs) or self.stopped_early(history)

    @staticmethod
    def without_times(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The history in a checkpoint: the same training writes the same bytes."""
        return [{name: value for name, value in row.items() if name not in TIMES} for row in history]

    def diverged(self, text: str) -> TrainingDiverged:
        """The error for a training that diverged; it is in ``train.log`` as well."""
        self.log(text)
        return TrainingDiverged(text)

    def log(self, text: str) -> None:
        """Adds a line with the time to ``train.log``."""
        path = self.folder / store.LOG_FILE
        with storage_fault_named(path), open(path, "a", encoding="utf-8") as file:
            file.write(f"{provenance.now()} {text}\n")


@dataclass(frozen=True)
class Device:
    """A device for a training.

    Attributes:
        name: ``auto``, ``cpu``, ``cuda`` or ``cuda:<number>``.
        largest_batch: size of the largest batch for which other trainings had memory, None if unknown: larger
            batches are split from the start, as after a lack of memory.
    """

    name: str = "auto"
    largest_batch: int | None = None


def train(
    files: TrialFiles,
    unit: Unit,
    *,
    checkpoints: Iterable[str] = ("last",),
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    on_wait: Callable[[], None] | None = None,
    device: str | Device = "auto",
    overwrite: bool = False,
    rebuild: bool = False,
) -> Outcome:
    """Trains ``unit``, unless its training is done; waits while another process trains the unit.

    Args:
        checkpoints: names to keep: ``last``, ``best`` (the epoch of lowest loss), ``epoch_<k>`` (from 1).
        on_epoch: called after each epoch's files are written, with ``epoch`` (from 1), ``epochs``, ``loss``
            (mean over the epoch), ``seconds`` and ``per_second``. An exception from it ends the training.
        on_wait: called once if another process trains the unit.
        device: its name (``auto``, ``cpu``, ``cuda`` or ``cuda:<number>``), or a `Device`.
        overwrite: trains from the first epoch even if the training is done.
        rebuild: trains again if checkpoints are pruned; otherwise they count as complete.

    Raises:
        TrainingDiverged: the loss became infinite or NaN.
        ValueError: no training clips, clips too short, too few classes, no such device; clusters that make
            the classes are missing, see `asdray.stages.clustered`.
    """
    system, folder = files.trial.system, files.folder.model(unit.name)
    system.check(files.trial.dcase)
    system.check_data(files.dataset.kind)
    wanted = _known_checkpoints(("last", *checkpoints), system.train)
    ask = partial(Snapshot.train, unit=unit, checkpoints=wanted)
    with working(files, folder, ask, overwrite=overwrite, rebuild=rebuild, on_wait=on_wait) as work:
        if work.reused:
            return work.reused
        training = UnitTraining(files, unit, _mark_begun(work.step, wanted, overwrite), work.step.signature)
        history = [] if overwrite else _resumable(training)
        if history:
            training = replace(training, parts=_parts_before(training))
        _clear(folder, keep_checkpoints=bool(history))
        device = device if isinstance(device, Device) else Device(device)
        if device.largest_batch and not history:
            training = _split(training, device.largest_batch)
        work.started = time.time() - sum(row["seconds"] or 0 for row in history)
        facts = _train_in_memory(training, history, on_epoch, device.name)
        outputs = [*map(training.checkpoint, training.checkpoints), folder / store.EPOCHS_FILE]
        return work.finish(outputs, device=facts.pop("device"), extra=facts)


def _known_checkpoints(names: Iterable[str], options: Train) -> tuple[str, ...]:
    """The names, each once; ValueError for a checkpoint that the training does not have."""
    wanted = tuple(dict.fromkeys(names))
    epochs = options.known_epochs or 0
    if unknown := {*wanted} - {"last", "best", *(f"epoch_{k}" for k in range(1, epochs + 1))}:
        known = f"last, best, epoch_1 to epoch_{epochs}" if epochs else f"last, best ({options.why_unknown})"
        raise ValueError(f"checkpoint {min(unknown)!r} is none of: {known}")
    return wanted


def _mark_begun(step: Step, wanted: tuple[str, ...], overwrite: bool) -> tuple[str, ...]:
    """Changes the training's record before its files change; returns the checkpoints to write.

    Checkpoints of an earlier run of this training stay: two sweeps with different checkpoints would otherwise
    train in turns.
    """
    old = store.read_record(step.folder, "train")
    if old is not None and step.complete and not overwrite:
        # The rebuilt outputs are the same: downstream results stay valid meanwhile, but no stage may read
        # these outputs until they are complete.
        store.write_record(step.folder, "train", replace(old, pruned=tuple(sorted(old.outputs))))
    else:
        store.write_record(step.folder, "train", None)
    if old is None or old.signature != step.signature:
        return wanted
    kept = [Path(name).stem for name in old.outputs if name.endswith(".ckpt")]
    return tuple(dict.fromkeys((*wanted, *kept)))


def _resumable(training: UnitTraining) -> list[dict[str, Any]]:
    """The history of the epochs after which an interrupted training goes on; empty = from the start.

    Only a training of the same signature goes on, and only if the checkpoints asked for of all its epochs so
    far exist.
    """
    from asdray.frontends import checkpoint

    def history_of(name: str) -> list[dict[str, Any]]:
        try:
            saved = checkpoint.read(training.checkpoint(name))["asdray"]
        except ValueError:  # missing or damaged: the training starts afresh, which is no reason to stop
            return []
        return checkpoint.interned(saved["history"]) if saved["signature"] == training.signature else []

    history = history_of("last")
    epochs = (int(name.removeprefix("epoch_")) for name in training.checkpoints if name.startswith("epoch_"))
    if any(n <= len(history) and len(history_of(f"epoch_{n}")) != n for n in epochs):
        return []
    if "best" in training.checkpoints and history:
        # A best checkpoint of a later epoch was written just before the interruption: it is written again.
        found = len(history_of("best"))
        if found <= len(history) and found != training.best(history):
            return []
    return _with_times(training.folder / store.EPOCHS_FILE, history)


def _with_times(path: Path, history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The history with the times from ``metrics.csv``, which no checkpoint holds; None if unknown."""
    times: dict[str, dict[str, str]] = {}
    with contextlib.suppress(ValueError, KeyError):  # no file, or a damaged one
        times = {row["epoch"]: row for row in damage.read_csv(path)}

    def time_of(row: Mapping[str, Any], name: str) -> float | None:
        try:
            return float(times.get(str(row["epoch"]), {}).get(name) or "")
        except ValueError:
            return None

    return [{**row, **{name: time_of(row, name) for name in TIMES}} for row in history]


def _split(training: UnitTraining, largest: int) -> UnitTraining:
    """The training with batches of at most ``largest`` items, or as it was if its batch has no such part."""
    enough = training.trial.system.train.batch_size <= largest
    smaller = None if enough else training.in_smaller_parts(largest)
    if smaller is None:
        return training
    training.log(
        f"another training ran out of memory until its batches had {largest}: {smaller.batches} from the "
        f"start, not {training.batches}"
    )
    return smaller


def _parts_before(training: UnitTraining) -> int:
    """The parts of a batch in the training that goes on from the checkpoint ``last``."""
    from asdray.frontends import checkpoint

    return checkpoint.read(training.checkpoint("last"))["asdray"].get("parts", 1)


def _train_in_memory(
    training: UnitTraining,
    history: list[dict[str, Any]],
    on_epoch: Callable[[dict[str, Any]], None] | None,
    device: str,
) -> dict[str, Any]:
    """Trains, and after a lack of memory once more with smaller batches and the same mean gradients."""
    from asdray.frontends import compute

    try:
        return _train(training, history, on_epoch, device)
    except RuntimeError as error:
        smaller = training.in_smaller_parts() if compute.is_out_of_memory(error) else None
        if smaller is None:
            raise
        reason = str(error).partition("\n")[0]
    # Outside of the handler: the error, which holds the tensors of the failed step, is gone.
    compute.free_memory()
    _clear(training.folder, keep_checkpoints=False)
    training.log(
        f"out of memory with {training.batches} ({reason}): again from epoch 1 with {smaller.batches}. "
        "The mean gradient of a step is the same; batch normalisation and random choices per batch see the "
        "smaller batches, so that results may differ slightly"
    )
    return _train(smaller, [], on_epoch, device)


def _train(
    training: UnitTraining,
    history: list[dict[str, Any]],
    on_epoch: Callable[[dict[str, Any]], None] | None,
    device_name: str,
) -> dict[str, Any]:
    """Trains from the epoch after ``history``, which grows to all epochs; returns facts for the record."""
    if not training.trial.system.frontend.learns:
        return _without_training(training)
    from asdray.audio.batches import Clips
    from asdray.frontends import compute
    from asdray.frontends.base import saved_values

    trial, unit, places = training.trial, training.unit, training.files.places
    options = trial.system.train
    device = compute.choose_device(device_name)
    audio = trial.system.audio
    packs = training_packs(training.files, unit)
    clips = Clips(packs, audio.channel, audio.padding)
    every = training_columns(places, packs) | cluster_column(training.files, packs)
    clips, known = trained(trial.system, clips, every)
    columns = Known(known, "columns")
    with compute.settings(options.threads, device), compute.measured_memory(device) as memory:
        frontend = _untrained(training, columns).to(device)
        facts: dict[str, Any] = {
            "device": compute.device_label(device),
            "epochs": options.epochs,
            "n_clips": len(clips),
            "n_classes": len(saved_values(frontend, trial.system.frontend).get("classes", ())) or None,
            "threads": options.threads,
            "parameters": sum(p.numel() for p in frontend.parameters()),
        }
        training.log(f"{trial.title}, unit {unit.name} ({', '.join(unit.machines)}): {facts}")
        if history:
            training.log(f"goes on after epoch {len(history)}")
        from asdray.stages import fit, rehearsal

        over = training.is_over(history)
        if not over:
            data, plan = _training_data(training, frontend, clips, columns)
            if not history:
                rehearsal.rehearse(training, frontend, data, clips, device)
            if not (over := len(history) >= plan.epochs):
                fit.fit(fit.Run(training, frontend, data, plan, device, history, on_epoch))
        if over:  # killed after its last checkpoint
            fit.write_log(training, history)
        training.write_metrics(history)
        training.log("done")
    if memory:
        facts["gpu_memory"] = {**memory, "batch_size": training.batches["batch_size"]}
    if training.parts > 1:
        facts["out_of_memory"] = {"asked": replace(training, parts=1).batches, "used": training.batches}
    return {**facts, "epochs": len(history), "loss": history[-1]["loss"]}


def _untrained(training: UnitTraining, columns: dict[str, list[Any]]) -> FrontendModule:
    """The unit's frontend with its initial weights, drawn from the trial's seed."""
    from asdray import frontends
    from asdray.audio.batches import WEIGHTS, generator, torch_seed

    trial, unit, files = training.trial, training.unit, training.files
    config = trial.system.frontend
    test_classes = None
    if parts := config.test_classes:
        test_classes = classes_of_test_clips(files.places.data, files.dataset, unit.machines, parts)
    return frontends.build(
        config,
        trial.system.audio.n_samples(trial.dcase),
        columns=columns,
        test_classes=test_classes,
        files=input_paths(trial, unit, files.places),
        seed=torch_seed(generator(trial.seed, unit.name, WEIGHTS)),
    )


def _training_data(
    training: UnitTraining, frontend: FrontendModule, clips: Clips, columns: dict[str, list[Any]]
) -> tuple[TrainingData, Plan]:
    """The frontend's training data, and the plan of epochs and steps.

    Raises:
        ValueError: fewer than two items, or a plugin's data lacks an attribute.
    """
    from asdray.frontends.base import checked_data
    from asdray.stages.optimiser import Plan

    trial, unit, options = training.trial, training.unit, training.trial.system.train
    rng = held_out_generator(trial, unit)
    data = frontend.training_data(clips, columns, training.batches["batch_size"], rng)
    n_items = sum(checked_data(data, frontend, trial.system.frontend).sizes)
    if n_items < 2:
        raise ValueError(
            f"unit {unit.name} of {trial.dcase} has {n_items} training {data.items}: at least 2 are needed"
        )
    plan = Plan.of(data.sizes, training.batches["accumulate"], options)
    noun = "steps" if plan.accumulate == 1 else "batches"
    training.log(f"{n_items} {data.items} in {len(data.sizes)} {noun} per epoch")
    return data, plan


def _without_training(training: UnitTraining) -> dict[str, Any]:
    """Writes the files of a training without an epoch, for a frontend that learns nothing.

    Embeddings and weights from files are checked here, once for the whole unit.
    """
    from asdray import frontends
    from asdray.frontends import checkpoint, precomputed

    trial, unit, files = training.trial, training.unit, training.files
    frontend, paths = trial.system.frontend, input_paths(trial, unit, files.places)
    if frontend.reads_audio and paths:
        frontends.build(frontend, trial.system.audio.n_samples(trial.dcase), columns={}, files=paths)
    n_clips = 0
    for machine, split in itertools.product(unit.machines, ("train", "test")):
        keys = clip_keys(files, machine, split)
        n_clips += len(keys) if split == "train" else 0
        if not frontend.reads_audio:
            precomputed.read(paths["embeddings"][machine], keys, f"{split} clips of {trial.dcase} {machine}")
    for name in training.checkpoints:
        checkpoint.write_empty(training.checkpoint(name), training.signature)
    training.write_metrics([])
    training.log(f"{trial.title}, unit {unit.name}: nothing to learn")
    return {"device": "cpu", "epochs": 0, "n_clips": n_clips, "threads": trial.system.train.threads}


def _clear(folder: Path, keep_checkpoints: bool) -> None:
    """Deletes files of earlier runs; a resumed run keeps its checkpoints and its log."""
    for place in (folder, folder / "checkpoints"):
        store.sweep_leftovers(place)
    # Event files are written again from the history, so that no epoch occurs twice.
    for path in folder.glob("events.out.tfevents.*"):
        remove(path)
    if not keep_checkpoints:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    for name in (store.EPOCHS_FILE, "hparams.yaml", store.LOG_FILE):
        if not keep_checkpoints or (folder / name).is_dir():
            remove(folder / name)
