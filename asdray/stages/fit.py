"""The training loop, on Lightning; its import takes seconds, so `asdray.stages.train` imports it late."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asdray.stages.torchmetrics  # noqa: F401 - before Lightning, which imports torchmetrics

# isort: split
import lightning.pytorch as pl
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from asdray import alive, store
from asdray.audio.batches import generator, torch_seed
from asdray.config.plugin_fault import in_words, wrong
from asdray.frontends import compute
from asdray.frontends.checkpoint import AVERAGED, PREFIX, interned, write
from asdray.frontends.recorded import RecordedPass, arriving
from asdray.full_disk import storage_fault_named
from asdray.stages.optimiser import AveragedWeights, Plan, build_optimiser, build_schedule

if TYPE_CHECKING:
    from asdray.frontends.base import FrontendModule, TrainingData
    from asdray.stages.train import UnitTraining

LIGHTNING_LOGGERS = ("lightning", "lightning.pytorch", "lightning.fabric")


@dataclass
class Run:
    """A training in this process.

    Attributes:
        history: rows of the finished epochs, oldest first; grows.
        on_epoch: see `asdray.stages.train.train`.
    """

    training: UnitTraining
    frontend: FrontendModule
    data: TrainingData
    plan: Plan
    device: torch.device
    history: list[dict[str, Any]]
    on_epoch: Callable[[dict[str, Any]], None] | None = None


class _Training(pl.LightningModule):
    """A training for Lightning: one batch per epoch, in which all optimiser steps are taken.

    Lightning's own loop costs more than a millisecond per step, while a step of an autoencoder takes five.
    """

    automatic_optimization = False

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.frontend = run.frontend
        self._run = run
        self._trial = run.training.trial
        self._unit = run.training.unit.name
        self._options = run.training.trial.system.train
        decay = self._options.ema
        self._averages = AveragedWeights(run.frontend, decay) if decay is not None else None
        self._loss_of = compute.compiled(run.frontend.loss) if self._options.compile else run.frontend.loss
        self._recorded: RecordedPass | None = None
        self._losses: list[Tensor] = []
        self._rate = 0.0
        self._began = 0.0
        self._sigterm: Any = signal.getsignal(signal.SIGTERM)

    def train_dataloader(self) -> range:
        return range(1)

    def configure_optimizers(self) -> Any:
        if not any(p.requires_grad for p in self.frontend.parameters()):
            fix = "let parameters() give weights, or set `learns: ClassVar = False`"
            raise self._wrong(type(self.frontend), "no weights to learn", "parameters with a gradient", fix)
        optimiser = build_optimiser(self.frontend, self._options)
        schedule = build_schedule(optimiser, self._options, self._run.plan.n_steps)
        return {"optimizer": optimiser, "lr_scheduler": schedule} if schedule else optimiser

    def on_train_start(self) -> None:
        # Lightning has just replaced the handler of SIGTERM by a flag, which it reads between batches (here:
        # epochs) to exit with code 0. The process's own handler is restored.
        if self._sigterm is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._sigterm)

    def on_train_epoch_start(self) -> None:
        epoch = self.current_epoch
        assert epoch == len(self._run.history), (epoch, len(self._run.history))
        # Dropout and others draw from torch's global generator: every epoch has a stream of its own.
        torch.manual_seed(torch_seed(generator(self._trial.seed, f"{self._unit}/torch", epoch)))
        self._losses = []
        self._began = time.perf_counter()

    def training_step(self, *_: Any) -> None:
        optimizer, plan = self.trainer.optimizers[0], self._run.plan
        n_batches = plan.n_batches(self.current_epoch)
        for batch in self._batches("epoch", generator(self._trial.seed, self._unit, self.current_epoch)):
            done = len(self._losses)
            if done == n_batches < len(plan.sizes):
                break
            self._check_size(batch, done)
            if plan.begins_step(done):
                optimizer.zero_grad()
            if recorded := self._recording_of(batch):
                loss = recorded(batch)
            else:
                loss = self._loss(batch)
                self._check_gradient(loss)
                del batch  # room for the backward pass
                (loss if plan.accumulate == 1 else loss * plan.share(done)).backward()
            if plan.ends_step(done):
                self._step(optimizer)
            self._losses.append(loss.detach())
            alive.sign()
        if len(self._losses) < n_batches:
            raise self._wrong_batches(f"{len(self._losses)} batches", f"{len(plan.sizes)} batches")

    def _recording_of(self, batch: Any) -> RecordedPass | None:
        """With ``cuda_graphs`` the recorded passes, if the batch has the shape of the training's first."""
        if self._options.cuda_graphs and self._recorded is None:
            there = move_data_to_device(batch, self._run.device)
            self._recorded = RecordedPass(self.frontend, self._loss, there)
        return self._recorded if self._recorded is not None and self._recorded.fits(batch) else None

    def _check_gradient(self, loss: Tensor) -> None:
        """Raises ValueError for a loss that no weight can learn from."""
        if not loss.requires_grad:
            what, fix = "a number that depends on no weight", "compute it with torch alone"
            raise self._wrong(self.frontend.loss, what, "a loss with a gradient", fix)

    def _check_size(self, batch: Any, done: int) -> None:
        """Raises ValueError for a batch beyond ``sizes``, or of another size."""
        sizes = self._run.plan.sizes
        if done == len(sizes):
            raise self._wrong_batches(f"more than {done} batches", f"{done} batches")
        if isinstance(batch, Tensor) and batch.shape[:1] != (sizes[done],):
            found = f"shape {tuple(batch.shape)} in batch {done + 1}"
            raise self._wrong_batches(found, f"{sizes[done]} items in this batch")

    def _wrong_batches(self, found: str, expected: str) -> ValueError:
        """The error for an epoch that differs from ``sizes``."""
        expected, fix = f"{expected}, as `sizes` says", "yield the batches that `sizes` counts"
        return self._wrong(self._run.data.epoch, found, expected, fix)

    def _step(self, optimizer: torch.optim.Optimizer) -> None:
        """One step of the optimiser, and of the schedule and the averages."""
        if (limit := self._options.gradient_clip) is not None:
            torch.nn.utils.clip_grad_norm_(self.frontend.parameters(), limit)
        optimizer.step()
        self._rate = float(optimizer.param_groups[0]["lr"])
        for config in self.trainer.lr_scheduler_configs:
            schedule: Any = config.scheduler
            schedule.step()
        if self._averages is not None:
            self._averages.update()

    def _batches(self, method: str, *args: Any) -> Iterable[Any]:
        found: Any = getattr(self._run.data, method)(*args)
        if not isinstance(found, Iterable):
            fix = "yield the batches, or return a list of them"
            raise self._wrong(getattr(self._run.data, method), repr(found), "batches", fix)
        return arriving(found, self._run.device) if getattr(self._run.data, "independent", False) else found

    def _loss(self, batch: Any) -> Tensor:
        with compute.precision(self._options.precision, self._run.device):
            loss: Any = self._loss_of(move_data_to_device(batch, self._run.device))
        if not isinstance(loss, Tensor) or loss.shape:
            fix = "return the mean over the items of the batch, as torch computes it"
            raise self._wrong(self.frontend.loss, in_words(loss), "a tensor of shape ()", fix)
        return loss

    def _wrong(self, member: Any, found: str, expected: str, fix: str) -> ValueError:
        """The error for a frontend that breaks the interface in `asdray.frontends.base`."""
        config = self._trial.system.frontend
        return wrong(member, type(config) if config.plugin else config.label, found, expected, fix)

    def on_train_epoch_end(self) -> None:
        run = self._run
        losses = torch.stack(self._losses).double().cpu()
        seconds = time.perf_counter() - self._began
        self._check_finite(losses)
        sizes = torch.tensor(run.plan.sizes[: len(losses)], dtype=torch.float64)
        row = {
            "epoch": len(run.history) + 1,
            "loss": float((losses * sizes).sum() / sizes.sum()),
            "learning_rate": self._rate,
            "seconds": round(seconds, 4),
            "per_second": round(float(sizes.sum()) / seconds, 2),
        }
        row.update(self._validate())
        run.history.append(row)
        run.training.write_metrics(run.history)
        is_best = run.training.best(run.history) == row["epoch"]
        ends = row["epoch"] == run.plan.epochs or run.training.stopped_early(run.history)
        # `last` comes last: everything that its history names is then on disk.
        for name in (*(["best"] if is_best else []), f"epoch_{row['epoch']}", "last"):
            if name in run.training.checkpoints:
                small = self.frontend.small_checkpoints and (ends or name != "last")
                with store.atomic_path(run.training.checkpoint(name)) as temporary:
                    self.trainer.save_checkpoint(temporary, weights_only=small)
        assert self.logger is not None
        _log(self.logger, row)
        self._report(row)
        self.trainer.should_stop = ends

    def _report(self, row: dict[str, Any]) -> None:
        """Tells ``train.log`` and the caller about an epoch."""
        run, epochs = self._run, self._run.plan.epochs
        run.training.log(
            f"epoch {row['epoch']} of {epochs}: loss {row['loss']:.6g}, "
            f"{row['seconds']:.3g} s, {row['per_second']:.4g} {run.data.items}/s"
        )
        if run.on_epoch is not None:
            facts = {name: row[name] for name in ("epoch", "loss", "seconds", "per_second")}
            run.on_epoch({**facts, "epochs": epochs})

    def _validate(self) -> dict[str, float]:
        """The mean loss of the held-out data as ``validation_loss``; empty if no data are held out."""
        total, n_items = 0.0, 0
        self.frontend.eval()
        averaged = self._averages.in_use() if self._averages else contextlib.nullcontext()
        with torch.no_grad(), averaged:
            for batch in self._batches("held_out"):
                size = len(batch[0]) if isinstance(batch, tuple) else len(batch)
                total += float(self._loss(batch)) * size
                n_items += size
                alive.sign()
        self.frontend.train()
        if self._options.early_stopping and not n_items:
            what = "no batch of held-out data, which train.early_stopping needs"
            fix = "hold data out from training, or leave early_stopping out"
            raise self._wrong(self._run.data.held_out, what, "at least one", fix)
        return {"validation_loss": total / n_items} if n_items else {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for name in self.frontend.frozen_state():
            del checkpoint["state_dict"][PREFIX + name]
        checkpoint["asdray"] = {
            "signature": self._run.training.signature,
            "frontend": self.frontend.saved(),
            "history": self._run.training.without_times(self._run.history),
        }
        if self._run.training.parts > 1:
            checkpoint["asdray"]["parts"] = self._run.training.parts
        if self._averages is not None:
            checkpoint[AVERAGED] = self._averages.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for name in ("loops", "optimizer_states", "lr_schedulers"):
            checkpoint[name] = interned(checkpoint[name])
        for name, value in self.frontend.frozen_state().items():
            checkpoint["state_dict"][PREFIX + name] = value
        if self._averages is not None:
            self._averages.load(checkpoint[AVERAGED])

    def _check_finite(self, losses: Tensor) -> None:
        """Raises TrainingDiverged if a loss of the epoch, or a weight after it, is not a finite number."""
        step, what = len(losses), "the weights are not finite"
        if len(bad := torch.nonzero(~losses.isfinite())):
            step = int(bad[0]) + 1
            what = f"the loss is {losses[step - 1].item()}"
        elif all(math.isfinite(v.abs().max()) for v in self.state_dict().values() if v.is_floating_point()):
            return
        text = (
            f"training of unit {self._unit} diverged in epoch {self.current_epoch + 1}, step {step} of "
            f"{len(losses)}: {what}. Try a smaller train.learning_rate (now {self._options.learning_rate:g})"
        )
        raise self._run.training.diverged(text)


class _Files(TorchCheckpointIO):
    """Writes checkpoints where they belong; Lightning's own way leads through /tmp."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write(checkpoint, Path(path))


def fit(run: Run) -> None:
    """Trains up to the last epoch; afterwards ``run.history`` has a row for every epoch.

    A run with a history goes on from the checkpoint ``last``, which holds the same history.

    Raises:
        TrainingDiverged: a loss or weight became infinite or NaN; that epoch leaves no files.
        ValueError: a plugin's frontend or loss breaks the interface in `asdray.frontends.base`.
        KeyboardInterrupt: Ctrl-C.
    """
    resume = run.training.checkpoint("last") if run.history else None
    with _quiet(), _plain_interrupt(), _logging(run.training, run.history) as logger:
        trainer = pl.Trainer(
            accelerator="gpu" if run.device.type == "cuda" else "cpu",
            devices=[run.device.index] if run.device.type == "cuda" else 1,
            max_epochs=run.plan.epochs,
            logger=logger,
            default_root_dir=run.training.folder,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            # One process on one device, also inside a job of a cluster's own launcher.
            plugins=[LightningEnvironment(), _Files()],
        )
        trainer.fit(_Training(run), ckpt_path=resume, weights_only=True if resume else None)


def write_log(training: UnitTraining, history: Sequence[Mapping[str, Any]]) -> None:
    """Writes TensorBoard's file again, of a training that was interrupted after its last epoch."""
    with _quiet(), _logging(training, history):
        pass


@contextlib.contextmanager
def _logging(training: UnitTraining, history: Sequence[Mapping[str, Any]]) -> Iterator[TensorBoardLogger]:
    """A logger that knows the epochs of ``history``: the event file of an interrupted run was deleted."""
    trial, unit = training.trial, training.unit
    names = {"dcase": trial.dcase, "recipe": trial.recipe, "system": trial.system.id, "seed": trial.seed}
    names |= {"unit": unit.name, "machines": list(unit.machines)}
    # Lightning's loggers write in the first process of a launcher (RANK, SLURM_PROCID): here in each.
    rank_zero_only.rank = 0  # type: ignore[attr-defined]
    # TensorBoard writes in a thread of its own, whose error has no name and is raised later.
    with storage_fault_named(training.folder):
        logger = TensorBoardLogger(training.folder, name="", version="", default_hp_metric=False)
        logger.log_hyperparams({**names, **trial.system.model_dump(mode="json")})
        for row in history:
            _log(logger, row)
        yield logger
        logger.experiment.close()


def _log(logger: Any, row: Mapping[str, Any]) -> None:
    for name, value in row.items():
        if name != "epoch" and value is not None:
            # Not by `log_metrics`: to it a full disk is a value that it cannot log.
            logger.experiment.add_scalar(name, value, row["epoch"])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences Lightning's banners, tips and warnings, and what is told a second time: TensorBoard's thread.

    Errors are still shown.
    """
    levels = {name: logging.getLogger(name).level for name in LIGHTNING_LOGGERS}
    shown = threading.excepthook

    def of_other_threads(ended: threading.ExceptHookArgs) -> None:
        if not type(ended.thread).__module__.startswith("tensorboard."):
            shown(ended)

    threading.excepthook = of_other_threads
    try:
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        threading.excepthook = shown
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def _plain_interrupt() -> Iterator[None]:
    """Turns the SystemExit that Lightning makes of Ctrl-C back into a KeyboardInterrupt.

    Lightning also ignores all further Ctrl-C; the former handler is restored.
    """
    try:
        handler = signal.getsignal(signal.SIGINT)
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from None
        raise
