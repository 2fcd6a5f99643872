"""Trains a unit: packs of training clips -> checkpoints and logs in ``model/<unit>/``.

An interrupted training goes on from its ``last.ckpt`` and then equals an undisturbed one, since all random
choices of an epoch come from generators of that epoch alone.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from asdray import provenance, store
from asdray.config.trial import Trial, Unit
from asdray.dcase.manifest import Dataset, load_dataset
from asdray.stages import state
from asdray.stages.columns import classes_of_test_clips, clip_keys, training_columns
from asdray.stages.history import resumable, write_metrics
from asdray.store import Places, TrialDir


class TrainingDiverged(ValueError):  # noqa: N818 - it names what happened
    """A loss or a weight is no longer a finite number; training again would end the same way."""


def train(
    trial: Trial,
    unit: Unit,
    places: Places,
    *,
    checkpoints: Iterable[str] = ("last",),
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    on_wait: Callable[[], None] | None = None,
    device: str = "auto",
    overwrite: bool = False,
    again: bool = False,
) -> state.Outcome:
    """Trains ``unit``, unless that is done; waits where another process is at it.

    Args:
        checkpoints: what must be there in the end: ``last``, ``best`` (the epoch of lowest training
            loss), ``epoch_<k>`` (from 1).
        on_epoch: called after each epoch's files are written, with ``epoch`` (from 1), ``epochs``,
            ``loss`` (mean over the epoch), ``seconds`` and ``per_second``. What it raises ends the training,
            which can then be resumed.
        on_wait: called once if another process is at this unit.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<number>``.
        overwrite: trains anew from the first epoch, whatever is there.
        again: makes checkpoints that were dropped again; else they count as done.

    Raises:
        TrainingDiverged: the loss became infinite or NaN.
        ValueError: no such clips, clips too short, too few classes, no such device.
    """
    dataset = load_dataset(places.data, trial.dcase)
    dataset.require(unit.machines)
    trial.system.check(trial.dcase)
    wanted = _checked(("last", *checkpoints), trial.system.train.epochs)
    step = state.train_step(trial, unit, places, dataset)
    directory = store.trial_dir(places.results, trial)
    with store.lease(step.folder, on_wait):
        old = store.read_marker(step.folder, "train")
        if old is not None and old.signature == step.signature:
            # What an earlier run asked for of this very training stays: two sweeps with different
            # checkpoints would otherwise train it anew in turns.
            kept = [Path(name).stem for name in old.outputs if name.endswith(".ckpt")]
            wanted = tuple(dict.fromkeys((*wanted, *kept)))
        marker = state.trained(trial, unit, wanted, places, dataset)
        if marker is not None and not overwrite:
            if not (again and marker.dropped):
                return state.Outcome(marker, found=True)
            # Made again as it was: what was made of it stays valid meanwhile, but nothing may read it.
            store.write_marker(step.folder, replace(marker, dropped=tuple(sorted(marker.outputs))))
        else:
            # First of all the old marker goes: from here on the outputs are not what it says.
            store.marker_path(step.folder, "train").unlink(missing_ok=True)
        history = [] if overwrite else resumable(directory, unit, wanted, step.signature)
        _clear(step.folder, keep_checkpoints=bool(history))
        started = time.time() - sum(row["seconds"] or 0 for row in history)
        if trial.system.frontend.learns:
            facts = _train(
                trial, unit, dataset, places, directory, wanted, step.signature, history, on_epoch, device
            )
        else:
            facts = _without_training(trial, unit, dataset, places, directory, wanted, step.signature)
        outputs = [directory.checkpoint(unit.name, name) for name in wanted]
        marker = store.mark_done(
            step.folder,
            "train",
            step.signature,
            outputs=[*outputs, step.folder / "metrics.csv"],
            started=started,
            device=facts.pop("device"),
            extra=facts,
        )
        return state.Outcome(marker, found=False)


def _train(
    trial: Trial,
    unit: Unit,
    dataset: Dataset,
    places: Places,
    directory: TrialDir,
    checkpoints: tuple[str, ...],
    signature: str,
    history: list[dict[str, Any]],
    on_epoch: Callable[[dict[str, Any]], None] | None,
    device_name: str,
) -> dict[str, Any]:
    """The work itself; returns what the marker says besides the outputs. ``history`` grows to all epochs."""
    from asdray import frontends
    from asdray.audio.batches import WEIGHTS, Clips, generator, torch_seed
    from asdray.audio.cache import pack_of
    from asdray.frontends import compute
    from asdray.frontends.raw import RawSpecFrontend

    options = trial.system.train
    folder = directory.model(unit.name)
    device = compute.choose_device(device_name)
    packs = [pack_of(places, dataset, machine, "train") for machine in unit.machines]
    clips = Clips(packs, trial.system.audio.channel)
    columns = training_columns(places, packs)
    config = trial.system.frontend
    assert config.name != "precomputed"
    unheard = None
    if config.name == "discriminative" and config.labels == "asdkit":
        unheard = classes_of_test_clips(places.data, dataset, unit.machines, config.classes)
    with compute.settings(options.threads, device):
        frontend = frontends.build(
            config,
            trial.system.audio.n_samples(trial.dcase),
            columns=columns,
            unheard=unheard,
            seed=torch_seed(generator(trial.seed, unit.name, WEIGHTS)),
        ).to(device)
        assert not isinstance(frontend, RawSpecFrontend)
        facts = {
            "device": compute.device_label(device),
            "epochs": options.epochs,
            "n_clips": len(clips),
            "n_classes": len(frontend.saved().get("classes", ())) or None,
            "threads": options.threads,
            "parameters": sum(p.numel() for p in frontend.parameters()),
        }
        log = _Log(folder / "train.log")
        log(f"{trial.name}, unit {unit.name} ({', '.join(unit.machines)}): {facts}")
        if history:
            log(f"goes on after epoch {len(history)}")
        if len(history) < options.epochs:
            from asdray.stages import fit

            held_out = generator(trial.seed, f"{unit.name}/held-out", WEIGHTS)
            data = frontend.training_data(clips, columns, options.batch_size, held_out)
            name = f"frontend {config.name!r}"
            if config.name == "discriminative":
                name += f" with the loss {config.loss.name!r}"
            lacking = [a for a in ("items", "sizes", "epoch", "held_out") if not hasattr(data, a)]
            if lacking:
                raise ValueError(
                    f"{name}: training_data() gives a {type(data).__name__} without {', '.join(lacking)}"
                )
            if sum(data.sizes) < 2:
                raise ValueError(
                    f"unit {unit.name} of {trial.dcase} has {sum(data.sizes)} training {data.items}: "
                    "at least 2 are needed"
                )
            log(f"{sum(data.sizes)} {data.items} in {len(data.sizes)} steps per epoch")

            def report(row: dict[str, Any]) -> None:
                log(
                    f"epoch {row['epoch']} of {options.epochs}: loss {row['loss']:.6g}, "
                    f"{row['seconds']:.3g} s, {row['per_second']:.4g} {data.items}/s"
                )
                if on_epoch is not None:
                    told = {name: row[name] for name in ("epoch", "loss", "seconds", "per_second")}
                    on_epoch({**told, "epochs": options.epochs})

            run = fit.Run(
                name=name,
                frontend=frontend,
                data=data,
                options=options,
                seed=trial.seed,
                unit=unit.name,
                device=device,
                folder=folder,
                header={"signature": signature, "frontend": frontend.saved()},
                hyperparameters=_hyperparameters(trial, unit),
                checkpoint=lambda name: directory.checkpoint(unit.name, name),
                checkpoints=checkpoints,
                report=report,
                history=history,
            )
            try:
                fit.fit(run, directory.checkpoint(unit.name, "last") if history else None)
            except TrainingDiverged as error:
                log(str(error))
                raise
        # A run that was killed between its last checkpoint and its marker lacks only this.
        write_metrics(folder, history)
        log("done")
    return {**facts, "loss": history[-1]["loss"]}


def _without_training(
    trial: Trial,
    unit: Unit,
    dataset: Dataset,
    places: Places,
    directory: TrialDir,
    checkpoints: tuple[str, ...],
    signature: str,
) -> dict[str, Any]:
    """In place of `_train` for a frontend that learns nothing: the same files, without an epoch in them.

    What can be wrong with embeddings from a file is found here, once for all of the unit.
    """
    from asdray.frontends import checkpoint, precomputed

    config = trial.system.frontend
    n_clips = 0
    for machine in unit.machines:
        for split in ("train", "test"):
            keys = clip_keys(places, dataset, machine, split)
            n_clips += len(keys) if split == "train" else 0
            if config.name == "precomputed":
                path = state.embeddings_file(trial, machine, places)
                precomputed.read(path, keys, f"{split} clips of {trial.dcase} {machine}")
    folder = directory.model(unit.name)
    for name in checkpoints:
        checkpoint.write_empty(directory.checkpoint(unit.name, name), signature)
    write_metrics(folder, [])
    _Log(folder / "train.log")(f"{trial.name}, unit {unit.name}: nothing to learn")
    return {"device": "cpu", "epochs": 0, "n_clips": n_clips, "threads": trial.system.train.threads}


class _Log:
    """``train.log``: one line per event, with its time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, text: str) -> None:
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(f"{provenance.now()} {text}\n")


def _hyperparameters(trial: Trial, unit: Unit) -> dict[str, Any]:
    """The content of ``hparams.yaml``."""
    return {
        "dcase": trial.dcase,
        "recipe": trial.recipe,
        "system": trial.system.id,
        "seed": trial.seed,
        "unit": unit.name,
        "machines": list(unit.machines),
        **trial.system.model_dump(mode="json"),
    }


def _checked(checkpoints: Iterable[str], epochs: int) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(checkpoints))
    for name in names:
        number = name.removeprefix("epoch_")
        if name in ("last", "best"):
            continue
        if number == name or not number.isdecimal() or str(int(number)) != number:
            raise ValueError(f"checkpoint {name!r} is none of: last, best, epoch_<number>")
        if not 1 <= int(number) <= epochs:
            raise ValueError(f"checkpoint {name!r} is none of the {epochs} epochs of this training")
    return names


def _clear(folder: Path, keep_checkpoints: bool) -> None:
    """Removes what earlier runs left; what a resumed run keeps is its checkpoints and its log."""
    for place in (folder, folder / "checkpoints", folder / ".done"):
        store.sweep_leftovers(place)
    # Event files are written anew from the history, so that no epoch stands there twice.
    for path in folder.glob("events.out.tfevents.*"):
        path.unlink()
    if not keep_checkpoints:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        for name in ("metrics.csv", "hparams.yaml", "train.log"):
            (folder / name).unlink(missing_ok=True)
