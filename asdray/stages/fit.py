"""The training loop, by Lightning, whose import takes seconds: `asdray.stages.train` imports this late."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import Tensor

from asdray import store
from asdray.audio.batches import generator, torch_seed
from asdray.frontends import compute
from asdray.stages.history import TIMES, criterion, write_metrics
from asdray.stages.train import TrainingDiverged

if TYPE_CHECKING:
    from asdray.config.system import Train
    from asdray.frontends import Learning, TrainingData

LIGHTNING_LOGGERS = ("lightning", "lightning.pytorch", "lightning.fabric")


@dataclass
class Run:
    """One training: what is trained, how, and where its files go.

    Attributes:
        name: what is trained, in an error's words.
        header: entries of ``asdray`` in every checkpoint besides the history.
        checkpoint: name -> path.
        checkpoints: the names to write: ``last``, ``best``, ``epoch_<k>``.
        history: rows of the epochs that are done, oldest first; grows.
        report: called with the newest row after its epoch's files are written.
    """

    name: str
    frontend: Learning
    data: TrainingData
    options: Train
    seed: int
    unit: str
    device: torch.device
    folder: Path
    header: dict[str, Any]
    hyperparameters: dict[str, Any]
    checkpoint: Callable[[str], Path]
    checkpoints: tuple[str, ...]
    report: Callable[[dict[str, Any]], None]
    history: list[dict[str, Any]] = field(default_factory=list)


class _Training(pl.LightningModule):
    """The training as Lightning sees it: one batch per epoch, in which all steps are taken.

    Lightning's own loop over steps costs more than a millisecond per step, an autoencoder's step five.
    """

    automatic_optimization = False

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.frontend = run.frontend
        self._run = run
        self._losses: list[Tensor] = []
        self._began = 0.0
        self._sigterm: Any = signal.getsignal(signal.SIGTERM)

    def train_dataloader(self) -> range:
        return range(1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        options = self._run.options
        parameters = list(self.frontend.parameters())
        if not any(p.requires_grad for p in parameters):
            raise self._wrong("it has no weights to learn")
        return torch.optim.AdamW(
            parameters,
            lr=options.learning_rate,
            weight_decay=options.weight_decay,
            fused=True,
        )

    def on_train_start(self) -> None:
        # Lightning has just made SIGTERM a flag, at which it looks between batches, that is epochs, and then
        # leaves with exit code 0. It shall mean what it meant to this process.
        if self._sigterm is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._sigterm)

    def on_train_epoch_start(self) -> None:
        run = self._run
        assert self.current_epoch == len(run.history), (self.current_epoch, len(run.history))
        # For whatever draws from torch's global generator, such as dropout: a stream of the epoch's own.
        torch.manual_seed(torch_seed(generator(run.seed, f"{run.unit}/torch", self.current_epoch)))
        self._losses = []
        self._began = time.perf_counter()

    def training_step(self, *_: Any) -> None:
        run = self._run
        optimizer = self.trainer.optimizers[0]
        sizes = run.data.sizes
        for batch in self._batches("epoch", generator(run.seed, run.unit, len(run.history))):
            done = len(self._losses)
            if done == len(sizes):
                raise self._wrong(f"epoch() gives more than the {done} batches of sizes")
            if isinstance(batch, Tensor) and batch.shape[:1] != (sizes[done],):
                shape = tuple(batch.shape)
                raise self._wrong(
                    f"batch {done + 1} of epoch() has shape {shape}, but sizes says {sizes[done]}"
                )
            optimizer.zero_grad()
            loss = self._loss(batch)
            if not loss.requires_grad:
                raise self._wrong("loss() gives a number that depends on no weight")
            del batch  # room for the backward pass
            loss.backward()
            optimizer.step()
            self._losses.append(loss.detach())
        if len(self._losses) < len(sizes):
            raise self._wrong(f"epoch() gives {len(self._losses)} of the {len(sizes)} batches of sizes")

    def _batches(self, method: str, *args: Any) -> Iterable[Any]:
        found: Any = getattr(self._run.data, method)(*args)
        if not isinstance(found, Iterable):
            raise self._wrong(f"{method}() gives {found!r}, not batches")
        return found

    def _loss(self, batch: Any) -> Tensor:
        with compute.precision(self._run.options.precision, self._run.device):
            loss: Any = self.frontend.loss(move_data_to_device(batch, self._run.device))
        if not isinstance(loss, Tensor) or loss.shape:
            what = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise self._wrong(f"loss() gives {what}, not a tensor of shape ()")
        return loss

    def _wrong(self, what: str) -> ValueError:
        """What a plugin does otherwise than `asdray.frontends` says."""
        return ValueError(f"{self._run.name}: {what}")

    def on_train_epoch_end(self) -> None:
        run = self._run
        losses = torch.stack(self._losses).double().cpu()
        seconds = time.perf_counter() - self._began
        self._check_finite(losses)
        sizes = torch.tensor(run.data.sizes, dtype=torch.float64)
        row = {
            "epoch": len(run.history) + 1,
            "loss": float((losses * sizes).sum() / sizes.sum()),
            "learning_rate": float(self.trainer.optimizers[0].param_groups[0]["lr"]),
            "seconds": round(seconds, 4),
            "per_second": round(float(sizes.sum()) / seconds, 2),
        }
        row.update(self._validate())
        is_best = all(criterion(row) < criterion(r) for r in run.history)
        run.history.append(row)
        write_metrics(run.folder, run.history)
        # `last` comes last: what it says was done before it, is.
        if "best" in run.checkpoints and is_best:
            self._save("best")
        if f"epoch_{row['epoch']}" in run.checkpoints:
            self._save(f"epoch_{row['epoch']}")
        self._save("last")
        assert self.logger is not None
        _log(self.logger, row)
        run.report(row)

    def _validate(self) -> dict[str, float]:
        """The mean loss of what is held out from training, where something is."""
        total, n_items = 0.0, 0
        self.frontend.eval()
        with torch.no_grad():
            for batch in self._batches("held_out"):
                total += float(self._loss(batch)) * len(batch)
                n_items += len(batch)
        self.frontend.train()
        return {"validation_loss": total / n_items} if n_items else {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Without times, so that the same training writes the same bytes.
        history = [{k: v for k, v in row.items() if k not in TIMES} for row in self._run.history]
        checkpoint["asdray"] = {**self._run.header, "history": history}

    def _save(self, name: str) -> None:
        with store.atomic_path(self._run.checkpoint(name)) as temporary:
            self.trainer.save_checkpoint(temporary)

    def _check_finite(self, losses: Tensor) -> None:
        """Raises TrainingDiverged where a loss, or afterwards a weight, is not a finite number."""
        bad = torch.nonzero(~losses.isfinite())
        step, what = len(losses), "the weights are not finite"
        if len(bad):
            step = int(bad[0]) + 1
            what = f"the loss is {losses[step - 1].item()}"
        elif all(math.isfinite(v.abs().max()) for v in self.state_dict().values() if v.is_floating_point()):
            return
        run = self._run
        raise TrainingDiverged(
            f"training of unit {run.unit} diverged in epoch {len(run.history) + 1}, step {step} of "
            f"{len(losses)}: {what}. Try a smaller train.learning_rate (now {run.options.learning_rate:g})"
        )


def fit(run: Run, resume: Path | None) -> None:
    """Trains up to the last epoch; ``run.history`` then has a row for each.

    Args:
        resume: the checkpoint to go on from; ``run.history`` holds its history.

    Raises:
        TrainingDiverged: a loss or weight became infinite or NaN; that epoch leaves no files.
        ValueError: a plugin's frontend or loss is not as `asdray.frontends` says.
        KeyboardInterrupt: as it came.
    """
    logger = TensorBoardLogger(run.folder, name="", version="", default_hp_metric=False)
    logger.log_hyperparams(run.hyperparameters)
    for row in run.history:  # the event file of the interrupted run is gone
        _log(logger, row)
    with _quiet(), _plain_interrupt():
        trainer = pl.Trainer(
            accelerator="gpu" if run.device.type == "cuda" else "cpu",
            devices=[run.device.index] if run.device.type == "cuda" else 1,
            max_epochs=run.options.epochs,
            logger=logger,
            default_root_dir=run.folder,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            # One process on one device, also inside a job of a cluster's own launcher.
            plugins=[LightningEnvironment()],
        )
        trainer.fit(_Training(run), ckpt_path=resume, weights_only=True if resume else None)
    logger.experiment.close()


def _log(logger: Any, row: dict[str, Any]) -> None:
    values = {name: value for name, value in row.items() if name != "epoch" and value is not None}
    logger.log_metrics(values, step=row["epoch"])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Lightning's banners and tips off the screen; errors still come through."""
    levels = {name: logging.getLogger(name).level for name in LIGHTNING_LOGGERS}
    try:
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def _plain_interrupt() -> Iterator[None]:
    """Lightning answers Ctrl-C by ignoring all further ones and SystemExit: undoes both."""
    try:
        handler = signal.getsignal(signal.SIGINT)
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from None
        raise
