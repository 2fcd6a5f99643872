"""Extracts a machine: its clips through a trained frontend -> embeddings and the frontend's own scores.

Knows no labels and needs no Lightning.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from asdray import store
from asdray.config.trial import Trial
from asdray.dcase.manifest import load_dataset
from asdray.stages import state
from asdray.stages.columns import training_columns
from asdray.store import Places

if TYPE_CHECKING:
    import torch

    from asdray.audio.batches import Clips
    from asdray.frontends import Frontend

SPLITS = ("train", "test")

MAX_CLIPS = 64
"""Clips at once, where ``train.batch_size`` (vectors, for an autoencoder) is more: bounds the memory."""


def extract(
    trial: Trial,
    machine: str,
    ckpt: str,
    places: Places,
    *,
    device: str = "auto",
    overwrite: bool = False,
) -> state.Outcome:
    """Writes ``train_extract.parquet`` and ``test_extract.parquet`` of ``machine``, unless that is done.

    One row per clip, sorted: ``clip``, ``embedding`` (fixed-size list of float32), and a float64 column per
    score of the frontend's own. Whole clips, tiled or cropped from their start to the trial's duration.

    Args:
        ckpt: the checkpoint: ``last``, ``best`` or ``epoch_<k>``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<number>``.

    Raises:
        ValueError: not trained yet; a damaged checkpoint; an embedding or score that is not finite.
    """
    dataset = load_dataset(places.data, trial.dcase)
    dataset.require([machine])
    trial.system.check(trial.dcase)
    unit = trial.unit_of(machine)
    directory = store.trial_dir(places.results, trial)
    step = state.extract_step(trial, machine, ckpt, places, dataset)
    if step.inputs is None:
        raise ValueError(
            f"{trial.name} has no finished training of unit {unit.name} with the checkpoint {ckpt!r}: "
            f"run `asdray train {directory.root} --ckpt {ckpt}` first"
        )
    with store.lease(step.folder):
        marker = step.marker
        if marker is not None and not overwrite:
            return state.Outcome(marker, found=True)
        outputs = [directory.extract(ckpt, machine, split) for split in SPLITS]
        store.begin(step.folder, step.stage, outputs)
        started = time.time()

        import torch

        from asdray.audio.batches import Clips
        from asdray.audio.cache import pack_of
        from asdray.frontends import checkpoint, compute

        torch_device = compute.choose_device(device)
        batch_size = min(trial.system.train.batch_size, MAX_CLIPS)
        n_samples = trial.system.audio.n_samples(trial.dcase)
        counts = {}
        with compute.settings(trial.system.train.threads, torch_device):
            path = directory.checkpoint(unit.name, ckpt)
            frontend = checkpoint.load(path, trial.system.frontend, n_samples, step.inputs["checkpoint"])
            frontend.to(torch_device)
            for split, output in zip(SPLITS, outputs, strict=True):
                pack = pack_of(places, dataset, machine, split)
                clips = Clips([pack], trial.system.audio.channel)
                if split == "train" and frontend.needs_training_clips:
                    with torch.inference_mode():
                        frontend.prepare(clips, training_columns(places, [pack]))
                found = _run(frontend, clips, n_samples, batch_size, torch_device)
                _write(output, clips.keys, found)
                counts[split] = len(clips)
        marker = store.mark_done(
            step.folder,
            "extract",
            step.signature,
            outputs=outputs,
            started=started,
            inputs=step.inputs,
            device=compute.device_label(torch_device),
            extra={"n_clips": counts, "threads": trial.system.train.threads},
        )
        return state.Outcome(marker, found=False)


def _run(
    frontend: Frontend, clips: Clips, n_samples: int, batch_size: int, device: torch.device
) -> dict[str, torch.Tensor]:
    """``frontend.extract`` of all clips: each value ``(N, ...) float32``, on the CPU."""
    import numpy as np
    import torch

    from asdray.audio.features import to_float

    parts = []
    with torch.inference_mode():
        for start in range(0, len(clips), batch_size):
            index = np.arange(start, min(start + batch_size, len(clips)))
            waves = to_float(clips.gather(index, n_samples).to(device))
            parts.append({name: value.cpu() for name, value in frontend.extract(waves).items()})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _write(path: Path, keys: tuple[str, ...], found: dict[str, torch.Tensor]) -> None:
    """Writes the values of all clips, after a look at every number.

    Raises:
        ValueError: a value is not finite; the message names its clip.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name, value in found.items():
        bad = (~value.reshape(len(keys), -1).isfinite().all(dim=1)).nonzero().flatten()
        if len(bad):
            raise ValueError(
                f"the {name} of {keys[int(bad[0])]} is not finite ({len(bad)} of {len(keys)} clips): the "
                "training may have diverged; look at its metrics.csv, and for silent or damaged audio"
            )
    embedding = found["embedding"].numpy()
    columns = {
        "clip": pa.array(keys, pa.string()),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(embedding.reshape(-1)), embedding.shape[1]),
    }
    for name, value in found.items():
        if name != "embedding":
            columns[name] = pa.array(value.double().numpy())
    assert list(keys) == sorted(keys)
    with store.atomic_path(path) as temporary:
        pq.write_table(pa.table(columns), temporary)
