"""Extraction: a machine's clips through a trained frontend -> embeddings and the frontend's own scores.

Extraction reads no labels of test clips and needs no Lightning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from asdray import damage, store
from asdray.config.plugin_members import Known
from asdray.stages.columns import clip_keys, held_out_generator, training_columns
from asdray.stages.held_out import trained
from asdray.stages.input_files import input_paths
from asdray.stages.steps import Outcome, Snapshot, TrialFiles, working

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from asdray.audio.batches import Clips
    from asdray.audio.cache import Pack
    from asdray.config.frontend_base import FrontendConfig


SPLITS = ("train", "test")

MAX_CLIPS = 64
"""Most clips per batch; bounds the memory where ``train.batch_size`` counts vectors or is large."""


@dataclass(frozen=True)
class Extract:
    """The extraction of N clips of one machine and split, or the embeddings of it that were asked for.

    Attributes:
        clips: N clip keys.
        embeddings: by name, each (N, D) float32, or (N, F, D) for F bands.
        own: the frontend's own anomaly scores, each (N,).
    """

    clips: list[str]
    embeddings: dict[str, NDArray[np.float32]]
    own: dict[str, NDArray[np.floating]]

    @property
    def embedding(self) -> NDArray[np.float32]:
        """The first embedding, (N, D); bands stand side by side."""
        first = next(iter(self.embeddings.values()))
        return first.reshape(len(first), -1)


_SHAPE = b"shape"
"""Metadata of an embedding's column: the shape per clip, such as ``8,768``; a vector has none."""


def read_extract(path: Path, embeddings: Sequence[str] = ()) -> Extract:
    """A ``{train,test}_extract.parquet``; other embeddings are not loaded.

    Args:
        embeddings: names; by default the first one.

    Raises:
        ValueError: missing or damaged, with its name; an embedding that it does not hold.
    """

    def wanted(schema: pa.Schema) -> list[str]:
        lists = [field.name for field in schema if hasattr(field.type, "list_size")]
        if absent := [name for name in embeddings if name not in lists]:
            raise ValueError(f"{path} has no embedding {absent[0]!r} (it has: {', '.join(lists)})")
        left_out = set(lists) - set(embeddings or lists[:1])
        return [name for name in schema.names if name not in left_out]

    table = damage.read_parquet(path, wanted)
    named: dict[str, NDArray[np.float32]] = {}
    own: dict[str, NDArray[np.floating]] = {}
    for field in table.schema:
        if hasattr(field.type, "list_size"):
            shape = (field.metadata or {}).get(_SHAPE, str(field.type.list_size).encode())
            values = table[field.name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            named[field.name] = values.reshape(len(table), *map(int, shape.split(b",")))
        elif field.name != "clip":
            own[field.name] = table[field.name].to_numpy()
    return Extract(table["clip"].to_pylist(), {name: named[name] for name in embeddings or named}, own)


def extract(
    files: TrialFiles,
    machine: str,
    ckpt: str,
    *,
    device: str = "auto",
    overwrite: bool = False,
    rebuild: bool = False,
) -> Outcome:
    """Writes ``train_extract.parquet`` and ``test_extract.parquet`` of ``machine``, unless both are done.

    The files have one row per clip, sorted: ``clip``, ``embedding`` (fixed-size list of float32), and a
    float64 column per own score of the frontend. A frontend with several embeddings has a column for each,
    under its name; an embedding with bands is a list of F x D numbers, band after band, and the column's
    metadata has the shape. Clips are lengthened (``audio.padding``), or cropped from their start, to the
    trial's duration.

    Args:
        ckpt: the checkpoint: ``last``, ``best`` or ``epoch_<k>``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<number>``.
        overwrite: extracts even if the files are complete.
        rebuild: extracts pruned files again; otherwise they count as complete.

    Raises:
        ValueError: the unit is not trained; the checkpoint is pruned or damaged; an embedding or score is not
            finite.
    """
    system, folder = files.trial.system, files.folder
    system.check(files.trial.dcase)
    ask = partial(Snapshot.extract, machine=machine, ckpt=ckpt)
    with working(files, folder.machine(ckpt, machine), ask, overwrite=overwrite, rebuild=rebuild) as work:
        if work.reused:
            return work.reused
        outputs = [folder.extract(ckpt, machine, split) for split in SPLITS]
        work.replace(outputs)

        from asdray.frontends import compute

        torch_device = compute.choose_device(device)
        counts = {}
        with compute.settings(system.train.threads, torch_device):
            if system.frontend.reads_audio:
                sha256 = (work.step.inputs or {})["checkpoint"]
                splits = _from_audio(files, machine, ckpt, sha256, torch_device)
            else:
                splits = _from_file(files, machine)
            for split, output, (keys, found) in zip(SPLITS, outputs, splits, strict=True):
                _write(output, keys, found, system.frontend)
                counts[split] = len(keys)
        extra = {"n_clips": counts, "threads": system.train.threads}
        return work.finish(outputs, device=compute.device_label(torch_device), extra=extra)


Found = tuple[tuple[str, ...], dict[str, "torch.Tensor"]]
"""The keys of N clips, and tensors ``(N, ...)`` by name: the frontend's embeddings and own scores."""


def _from_file(files: TrialFiles, machine: str) -> Iterator[Found]:
    """The embeddings of each split, read from the frontend's file."""
    import torch

    from asdray.frontends import precomputed

    path = input_paths(files.trial, files.trial.unit_of(machine), files.places)["embeddings"][machine]
    for split in SPLITS:
        keys = clip_keys(files, machine, split)
        values = precomputed.read(path, keys, f"{split} clips of {files.trial.dcase} {machine}")
        yield keys, {"embedding": torch.from_numpy(values)}


def _from_audio(
    files: TrialFiles, machine: str, ckpt: str, sha256: str, device: torch.device
) -> Iterator[Found]:
    """The embeddings and own scores that a trained frontend computes from each split's audio."""
    from asdray.audio.batches import Clips
    from asdray.audio.cache import pack_of

    audio = files.trial.system.audio
    frontend = TrainedFrontend(files, machine, ckpt, sha256, device)
    for split in SPLITS:
        pack = pack_of(files.places, files.dataset, machine, split, audio.channel)
        clips = Clips([pack], audio.channel, audio.padding)
        if split == "train":
            frontend.prepare(pack)
        yield clips.keys, frontend.extract(clips)


class TrainedFrontend:
    """A frontend with the weights of a checkpoint, ready for clips of one machine.

    Args:
        sha256: of the checkpoint's content.
        device: where the frontend computes, within `asdray.frontends.compute.settings`.

    Raises:
        ValueError: the checkpoint is missing or damaged.
    """

    def __init__(self, files: TrialFiles, machine: str, ckpt: str, sha256: str, device: torch.device) -> None:
        from asdray.frontends import checkpoint

        system, unit = files.trial.system, files.trial.unit_of(machine)
        self._files, self._unit, self._device = files, unit, device
        self._batch_size = system.train.batch_size
        n_samples = system.audio.n_samples(files.trial.dcase)
        self._n_samples = None if system.audio.duration == "native" else n_samples
        path, paths = files.folder.checkpoint(unit.name, ckpt), input_paths(files.trial, unit, files.places)
        module = checkpoint.load(path, system.frontend, n_samples, sha256=sha256, files=paths)
        self._module = module.to(device)

    @property
    def clips_per_batch(self) -> int:
        """The most clips that are computed together."""
        return min(self._batch_size, MAX_CLIPS)

    @property
    def needs_training_clips(self) -> bool:
        """True if `prepare` must be called before the first clip."""
        return self._module.needs_training_clips

    def prepare(self, pack: Pack) -> None:
        """Computes what the frontend needs to know of the machine's training clips, if anything."""
        import torch

        from asdray.audio.batches import Clips

        if not self.needs_training_clips:
            return
        system = self._files.trial.system
        audio = system.audio
        rng = held_out_generator(self._files.trial, self._unit)
        every = Clips([pack], audio.channel, audio.padding)
        clips, columns = trained(system, every, training_columns(self._files.places, [pack]))
        with torch.inference_mode():
            self._module.prepare(clips, Known(columns, "columns"), self._batch_size, rng)

    def extract(self, clips: Clips) -> dict[str, torch.Tensor]:
        """Tensors ``(N, ...)`` by name: embeddings and own scores of N clips, on the CPU."""
        import torch

        from asdray.frontends.base import extract_all

        config = self._files.trial.system.frontend
        with torch.inference_mode():
            return extract_all(
                self._module, clips, self._n_samples, self.clips_per_batch, self._device, config
            )


def _write(
    path: Path, keys: tuple[str, ...], found: dict[str, torch.Tensor], frontend: FrontendConfig
) -> None:
    """Writes the embeddings and scores of all clips.

    Raises:
        ValueError: a value is not finite, and the message names the first such clip; the frontend computes
            no embedding of a name that its configuration has.
    """
    import pyarrow as pa

    embeddings = frontend.embeddings
    if absent := [name for name in embeddings if name not in found]:
        raise ValueError(f"{frontend.label} computes no {absent[0]!r} (it computes: {', '.join(found)})")
    for name, value in found.items():
        bad = (~value.reshape(len(keys), -1).isfinite().all(dim=1)).nonzero().flatten()
        if len(bad):
            raise ValueError(
                f"the {name} of {keys[int(bad[0])]} is not finite ({len(bad)} of {len(keys)} clips): the "
                "training may have diverged; look at its metrics.csv, and for silent or damaged audio"
            )
    columns = {"clip": pa.array(keys, pa.string())}
    fields = [pa.field("clip", pa.string())]
    for name in embeddings:
        flat = found[name].flatten(1).numpy()
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])
        shape = {_SHAPE: ",".join(map(str, found[name].shape[1:]))} if found[name].ndim > 2 else None
        fields.append(pa.field(name, columns[name].type, metadata=shape))
    for name, value in found.items():
        if name not in embeddings:
            columns[name] = pa.array(value.double().numpy())
            fields.append(pa.field(name, columns[name].type))
    # A dictionary of numbers that hardly repeat would make the file 1.5 times as large.
    table = pa.table(list(columns.values()), schema=pa.schema(fields))
    store.write_parquet(path, table, use_dictionary=False)
