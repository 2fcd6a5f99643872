"""Batches of clips from memory-mapped packs, and the random generators of all training.

No function decodes audio, and only one batch is in memory. The module imports numpy and torch, but nothing
else of asdray at run time.

Conventions: clips are addressed by position, crops by the first sample; a clip that is shorter than the crop
is repeated end to end, or continued with zeros. Legend for shapes: N clips, B clips of a batch, n samples.

>>> from asdray.audio.batches import generator, split
>>> split(5, 2)
[slice(0, 2, None), slice(2, 5, None)]
>>> bool(generator(seed=0, unit="fan", epoch=0).random() == generator(0, "fan", 0).random())
True
"""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from asdray import alive

if TYPE_CHECKING:
    from asdray.audio.cache import Pack

WEIGHTS = -1
"""The ``epoch`` of the generator for a unit's initial weights."""


def generator(seed: int, unit: str, epoch: int) -> np.random.Generator:
    """Source of all random choices in one epoch of one unit, independent of other epochs and units.

    Args:
        seed: the trial's seed, at least 0.
        epoch: from 0, or `WEIGHTS`.
    """
    # Python's own hash() of a string differs from process to process.
    name = int.from_bytes(hashlib.sha256(unit.encode()).digest()[:16], "little")
    return np.random.default_rng(np.random.SeedSequence([seed, name, epoch + 1]))


def torch_seed(rng: np.random.Generator) -> int:
    """A seed for torch's generators, drawn from ``rng``."""
    return int(rng.integers(2**63))


class Clips:
    """The clips of several packs, one pack after another, addressed by their position.

    Args:
        channel: ``near`` (channel 0), ``far`` (1), the ``mean`` of both, or the ``difference`` (near minus
            far). Packs of one channel have ``near`` only. ``cancel`` and ``subtract``: the only channel of
            packs that were made for them, see `asdray.audio.cache.ensure_pack`.
        padding: ``repeat`` or ``zero``, for clips that are shorter than a crop.

    Attributes:
        keys: clip keys.
        lengths: ``(N,) int64``, samples per clip.
    """

    def __init__(self, packs: Sequence[Pack], channel: str = "near", padding: str = "repeat") -> None:
        assert channel not in _WITH_FAR or all(pack.samples.shape[1] == 2 for pack in packs), channel
        self._channel, self._padding = channel, padding
        self.keys: tuple[str, ...] = tuple(key for pack in packs for key in pack.clips)
        offsets = [np.asarray(pack.offsets, dtype=np.int64) for pack in packs]
        self.lengths = np.concatenate([np.diff(o) for o in offsets])
        self._first = np.concatenate([o[:-1] for o in offsets])
        self._pack = np.repeat(np.arange(len(packs)), [len(o) - 1 for o in offsets])
        self._samples = [np.asarray(pack.samples) for pack in packs]  # a plain view slices faster
        computed = channel in ("mean", "difference") or self._samples[0].dtype == np.float32
        self._dtype = np.dtype(np.float32 if computed else np.int16)
        self._page_locked = False

    def __len__(self) -> int:
        return len(self.keys)

    def only(self, index: Sequence[int]) -> Clips:
        """The clips at the positions ``index``, of the same audio."""
        chosen, at = copy.copy(self), np.asarray(index, dtype=np.int64)
        chosen.keys = tuple(self.keys[i] for i in index)
        chosen.lengths, chosen._first, chosen._pack = self.lengths[at], self._first[at], self._pack[at]
        return chosen

    def for_copies(self, device: torch.device) -> Clips:
        """The same clips; for a GPU, `gather` fills page-locked memory, which is copied without a wait."""
        same = copy.copy(self)
        same._page_locked = device.type == "cuda"
        return same

    @property
    def nbytes(self) -> int:
        """Bytes of all clips in the form of `gather`."""
        return int(self.lengths.sum()) * self._dtype.itemsize

    def on(self, device: torch.device) -> DeviceClips:
        """The same clips in the memory of ``device``, which then gathers batches itself."""
        return DeviceClips(self, device)

    def random_starts(self, rng: np.random.Generator, n_samples: int) -> np.ndarray:
        """First sample of a random crop of ``n_samples`` per clip: ``(N,) int64``."""
        # A short clip is repeated as a whole until it is long enough, and the crop may start anywhere in the
        # repetitions. With zeros the crop of a short clip starts with the clip.
        repeats = np.maximum(1, -(-n_samples // self.lengths)) if self._padding == "repeat" else 1
        room = np.maximum(0, repeats * self.lengths - n_samples)
        return (rng.random(len(self)) * (room + 1)).astype(np.int64)

    def gather(self, index: np.ndarray, n_samples: int, starts: np.ndarray | None = None) -> Tensor:
        """Crops of clips; a clip that ends before the crop is repeated, or zeros follow.

        Args:
            index: ``(B,)`` positions of clips.
            starts: ``(B,)`` first sample of each crop; None = 0.

        Returns:
            ``(B, n_samples)``: ``int16`` for one microphone; ``float32`` with full scale 1 for other
            channels, of which mean and difference are exact. See `asdray.audio.features.to_float`.
        """
        gathered = self._memory(len(index), n_samples)
        batch = gathered.numpy()
        firsts = np.zeros(len(index), dtype=np.int64) if starts is None else starts
        alive.sign()
        # One block copy per stretch of audio: far cheaper than indexing sample by sample.
        for row, clip, start in zip(batch, index.tolist(), firsts.tolist(), strict=True):
            length = int(self.lengths[clip])
            begin = int(self._first[clip])
            samples = self._samples[self._pack[clip]]
            position = start % length
            filled = 0
            while filled < n_samples:
                n = min(length - position, n_samples - filled)
                row[filled : filled + n] = self._mono(samples[begin + position : begin + position + n])
                filled += n
                position = 0
                if self._padding == "zero":
                    row[filled:] = 0
                    break
        return gathered

    def _memory(self, *shape: int) -> Tensor:
        """A tensor in the form of `gather`, without values."""
        if not self._page_locked:
            return torch.from_numpy(np.empty(shape, dtype=self._dtype))
        kind = torch.int16 if self._dtype == np.int16 else torch.float32
        return torch.empty(shape, dtype=kind, pin_memory=True)

    def _mono(self, samples: np.ndarray) -> np.ndarray:
        """``(n, channels)`` of a pack -> ``(n,)`` in the form of `gather`."""
        if self._channel not in ("mean", "difference"):
            return samples[:, int(self._channel == "far")]
        near, far = samples[:, 0].astype(np.float32), samples[:, 1]
        return (near + far) * (1 / 65536) if self._channel == "mean" else (near - far) * (1 / 32768)


_WITH_FAR = ("far", "mean", "difference")
_CHUNK = 1 << 24


class DeviceClips(Clips):
    """Clips on a device, copied once: `gather` then moves no audio between devices."""

    def for_copies(self, device: torch.device) -> DeviceClips:
        """The clips themselves, which are never copied again."""
        return self

    def __init__(self, clips: Clips, device: torch.device) -> None:
        self.keys, self.lengths = clips.keys, clips.lengths
        self._channel, self._padding, self._dtype = clips._channel, clips._padding, clips._dtype
        sizes = [len(pack) for pack in clips._samples]
        dtype = torch.from_numpy(np.empty(0, self._dtype)).dtype
        self._all = torch.empty(sum(sizes), dtype=dtype, device=device)
        filled = 0
        for pack, size in zip(clips._samples, sizes, strict=True):
            for start in range(0, size, _CHUNK):  # only a chunk of a pack is in the host's memory
                mono = np.array(clips._mono(pack[start : start + _CHUNK]))
                self._all[filled : filled + len(mono)] = torch.from_numpy(mono)
                filled += len(mono)
        first = np.concatenate([[0], np.cumsum(sizes)])[clips._pack] + clips._first
        self._firsts = torch.from_numpy(first).to(device)
        self._lengths = torch.from_numpy(clips.lengths).to(device)

    def gather(self, index: np.ndarray, n_samples: int, starts: np.ndarray | None = None) -> Tensor:
        """The crops of `Clips.gather`, on the device."""
        alive.sign()
        device, index = self._all.device, np.asarray(index)
        begin = np.zeros(len(index), dtype=np.int64) if starts is None else starts
        clip = torch.from_numpy(index).to(device)
        first = torch.from_numpy(begin).to(device)
        if (begin + n_samples <= self.lengths[index]).all():
            # Rows of a view that overlap in memory: one index per crop, not one per sample.
            return self._all.unfold(0, n_samples, 1)[self._firsts[clip] + first]
        # Positions inside of a clip have 32 bits, of which a GPU computes remainders much faster.
        position = first.int()[:, None] + torch.arange(n_samples, dtype=torch.int32, device=device)
        lengths = self._lengths[clip].int()[:, None]
        after = position >= lengths if self._padding == "zero" else None
        position %= lengths
        found = self._all[position + self._firsts[clip][:, None]]
        return found if after is None else found.masked_fill_(after, 0)


def split(n_items: int, batch_size: int) -> list[slice]:
    """Slices of consecutive batches; a smaller last batch is kept.

    A single remaining item joins the batch before: batch normalisation cannot train on one item.
    """
    edges = [*range(0, n_items, batch_size), n_items]
    if len(edges) > 2 and edges[-1] - edges[-2] == 1:
        del edges[-2]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]
