"""Extraction: a machine's clips through a trained frontend -> embeddings and the frontend's own scores.

Extraction reads no labels of test clips and needs no Lightning.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from asdray import store
from asdray.config.trial import Trial
from asdray.dcase.manifest import Dataset
from asdray.stages.columns import clip_keys, held_out_generator, training_columns
from asdray.stages.steps import Outcome, TrialFiles, input_paths, working
from asdray.store import Places

if TYPE_CHECKING:
    import torch

    from asdray.frontends.base import FrontendModule

SPLITS = ("train", "test")

MAX_CLIPS = 64
"""Most clips per batch; bounds the memory where ``train.batch_size`` counts vectors or is large."""


def extract(
    trial: Trial,
    machine: str,
    ckpt: str,
    places: Places,
    *,
    device: str = "auto",
    overwrite: bool = False,
    rebuild: bool = False,
) -> Outcome:
    """Writes ``train_extract.parquet`` and ``test_extract.parquet`` of ``machine``, unless both are done.

    The files have one row per clip, sorted: ``clip``, ``embedding`` (fixed-size list of float32), and a
    float64 column per own score of the frontend. Clips are repeated end to end, or cropped from their start,
    to the trial's duration.

    Args:
        ckpt: the checkpoint: ``last``, ``best`` or ``epoch_<k>``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<number>``.
        overwrite: extracts even if the files are complete.
        rebuild: extracts pruned files again; otherwise they count as complete.

    Raises:
        ValueError: the unit is not trained; the checkpoint is pruned or damaged; an embedding or score is not
            finite.
    """
    files = TrialFiles.load(trial, places, [machine])
    trial.system.check(trial.dcase)
    unit = trial.unit_of(machine)
    directory, dataset = files.folder, files.dataset
    with working(
        files,
        directory.machine(ckpt, machine),
        lambda now: now.extract(machine, ckpt),
        overwrite=overwrite,
        rebuild=rebuild,
    ) as work:
        if work.reused:
            return work.reused
        outputs = [directory.extract(ckpt, machine, split) for split in SPLITS]
        work.replace(outputs)

        from asdray.frontends import checkpoint, compute

        torch_device = compute.choose_device(device)
        counts = {}
        with compute.settings(trial.system.train.threads, torch_device):
            if trial.system.frontend.reads_audio:
                frontend = checkpoint.load(
                    directory.checkpoint(unit.name, ckpt),
                    trial.system.frontend,
                    trial.system.audio.n_samples(trial.dcase),
                    sha256=(work.step.inputs or {})["checkpoint"],
                    files=input_paths(trial, unit, places),
                ).to(torch_device)
                splits = _from_audio(trial, machine, places, dataset, frontend, torch_device)
            else:
                splits = _from_file(trial, machine, places, dataset)
            for split, output, (keys, found) in zip(SPLITS, outputs, splits, strict=True):
                _write(output, keys, found)
                counts[split] = len(keys)
        extra = {"n_clips": counts, "threads": trial.system.train.threads}
        return work.finish(outputs, device=compute.device_label(torch_device), extra=extra)


Found = tuple[tuple[str, ...], dict[str, "torch.Tensor"]]
"""The keys of N clips, and tensors ``(N, ...)`` by name: ``embedding`` and the frontend's own scores."""


def _from_file(trial: Trial, machine: str, places: Places, dataset: Dataset) -> Iterator[Found]:
    """The embeddings of each split, read from the frontend's file."""
    import torch

    from asdray.frontends import precomputed

    path = input_paths(trial, trial.unit_of(machine), places)["embeddings"][machine]
    for split in SPLITS:
        keys = clip_keys(places, dataset, machine, split)
        values = precomputed.read(path, keys, f"{split} clips of {trial.dcase} {machine}")
        yield keys, {"embedding": torch.from_numpy(values)}


def _from_audio(
    trial: Trial,
    machine: str,
    places: Places,
    dataset: Dataset,
    frontend: FrontendModule,
    device: torch.device,
) -> Iterator[Found]:
    """The embeddings and own scores that a trained frontend computes from each split's audio."""
    import torch

    from asdray.audio.batches import Clips
    from asdray.audio.cache import pack_of
    from asdray.frontends.base import extract_all

    options, audio = trial.system.train, trial.system.audio
    n_samples = None if audio.duration == "native" else audio.n_samples(trial.dcase)
    with torch.inference_mode():
        for split in SPLITS:
            pack = pack_of(places, dataset, machine, split)
            clips = Clips([pack], audio.channel)
            if split == "train" and frontend.needs_training_clips:
                rng = held_out_generator(trial, trial.unit_of(machine))
                frontend.prepare(clips, training_columns(places, [pack]), options.batch_size, rng)
            batch_size = min(options.batch_size, MAX_CLIPS)
            yield clips.keys, extract_all(frontend, clips, n_samples, batch_size, device)


def _write(path: Path, keys: tuple[str, ...], found: dict[str, torch.Tensor]) -> None:
    """Writes the embeddings and scores of all clips.

    Raises:
        ValueError: a value is not finite; the message names the first such clip.
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
        # A dictionary of numbers that hardly repeat would make the file 1.5 times as large.
        pq.write_table(pa.table(columns), temporary, use_dictionary=False)
