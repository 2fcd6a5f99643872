"""The interface between frontends and stages: `FrontendModule`, and the batches that it trains on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from asdray.audio.batches import Clips
from asdray.audio.features import to_float
from asdray.config.plugin_fault import in_words, wrong
from asdray.frontends.recorded import arriving

if TYPE_CHECKING:
    from asdray.config.frontend import FrontendConfig
    from asdray.config.train import Train
    from asdray.frontends import Columns


class TrainingData(Protocol):
    """Batches of a unit's training clips.

    Attributes:
        items: the noun for the elements of a batch, ``clips`` or ``vectors``.
        sizes: the number of items in every batch of an epoch.

    A class may have ``independent = True``: its batches depend on nothing that training changes. A GPU then
    gets them while the steps before still compute, see `asdray.frontends.recorded.arriving`.
    """

    items: str
    sizes: tuple[int, ...]

    def epoch(self, rng: np.random.Generator) -> Iterator[Any]:
        """The batches of one epoch; all random choices come from ``rng``."""
        ...

    def held_out(self) -> Iterator[Any]:
        """Batches for the validation loss that are never trained on; may be none.

        The number of items is the ``len`` of a batch, or of the first tensor of a batch that is a tuple.
        """
        ...


class FrontendModule(nn.Module):
    """The base of every frontend: a torch module that turns clips into embeddings or anomaly scores.

    A frontend overrides `extract`; one that learns also `training_data` and `loss`; the other methods have
    defaults. Stages call them in this order. Training: `load_frozen`, `training_data`, `parameter_groups`,
    `loss` per batch, `saved` per checkpoint. Extraction: the module is built again with the saved values,
    then `load_frozen`, the checkpoint's weights, `prepare`, `extract` per batch.

    Legend for shapes: B clips, L samples per clip, D embedding dimensions.

    Example:
        A frozen encoder with a trained head, the encoder's weights in a file of the configuration's
        ``input_files``::

            class EncoderFrontend(FrontendModule):
                frozen = ("encoder",)

                def __init__(self, config, n_samples, columns, saved):
                    super().__init__()
                    self.encoder, self.head = Encoder(), nn.Linear(768, 128)

                def load_frozen(self, files):
                    (path,) = set(files["encoder"].values())
                    self.encoder.load_state_dict(torch.load(path, weights_only=True))

                def extract(self, waves):
                    return {"embedding": self.head(self.encoder(waves))}

    Attributes:
        frozen: names of submodules that are not trained: they stay in evaluation mode, their parameters get
            no gradient, and checkpoints do not hold their tensors.
        shortest: samples; shorter clips are lengthened (``audio.padding``), even if every clip keeps its own
            length.
        needs_training_clips: True if `prepare` is called before extraction.
        small_checkpoints: True if the optimiser's state is in no checkpoint but the one from which an
            interrupted training goes on.
    """

    frozen: tuple[str, ...] = ()
    shortest: int = 1
    needs_training_clips: bool = False
    small_checkpoints: bool = False

    def load_frozen(self, files: Mapping[str, Mapping[str, Path]]) -> None:
        """Loads the weights of the frozen submodules.

        Args:
            files: kind -> machine -> path of the configuration's ``input_files``, for the unit's machines.
        """

    def frozen_state(self) -> dict[str, Tensor]:
        """The tensors of the state dict that checkpoints do not hold: those of frozen submodules."""
        prefixes = tuple(f"{name}." for name in self.frozen)
        return {name: value for name, value in self.state_dict().items() if name.startswith(prefixes)}

    def train(self, mode: bool = True) -> Self:
        """Training (or evaluation) mode for all submodules except the frozen ones."""
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self

    def parameter_groups(self, options: Train) -> list[dict[str, Any]]:
        """Parameter groups, such as ``{"params": [...], "lr": 1e-4}``; by default one with all to learn.

        Args:
            options: the learning rate and weight decay of groups that give none.
        """
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def training_data(
        self, clips: Clips, columns: Columns, batch_size: int, rng: np.random.Generator
    ) -> TrainingData:
        """The batches to train on.

        Args:
            clips: all training clips of the unit.
            columns: ``machine``, ``section``, ``attributes`` and ``domain`` of every clip.
            batch_size: items per batch.
            rng: for random choices that hold for all epochs.
        """
        raise NotImplementedError

    def loss(self, batch: Any) -> Tensor:
        """The mean loss of one batch of `training_data`, shape ``()``."""
        raise NotImplementedError

    def saved(self) -> dict[str, Any]:
        """Plain values besides the weights that a checkpoint holds to build this frontend again."""
        return {}

    def prepare(self, clips: Clips, columns: Columns, batch_size: int, rng: np.random.Generator) -> None:
        """Computes the statistics of a machine's training clips that extraction needs.

        The arguments are as in `training_data`, for one machine; ``rng`` starts from the same state.
        """

    def extract(self, waves: Tensor) -> dict[str, Tensor]:
        """Clips ``(B, L) float32`` -> embeddings and own scores by name.

        Returns:
            For each name in the configuration's ``embeddings`` a tensor ``(B, D) float32``, or ``(B, F, D)``
            for F bands; for each own score a tensor ``(B,)``.
        """
        raise NotImplementedError


def extract_all(
    frontend: FrontendModule,
    clips: Clips,
    n_samples: int | None,
    batch_size: int,
    device: torch.device,
    config: FrontendConfig | None = None,
) -> dict[str, Tensor]:
    """``frontend.extract`` of all N clips, on the CPU.

    Args:
        n_samples: the length to which every clip is cropped or lengthened; None = each clip's own length.
        batch_size: clips per call.
        config: of a frontend whose outputs are checked, see `extracted`.

    Returns:
        The tensors of ``extract``, ``(N, ...)``, in the order of ``clips``.
    """
    lengths = np.full(len(clips), n_samples) if n_samples else np.maximum(clips.lengths, frontend.shortest)
    source = clips.for_copies(device)

    def batches() -> Iterator[tuple[NDArray[np.integer], Tensor]]:
        for length in np.unique(lengths):
            (same,) = np.nonzero(lengths == length)
            for start in range(0, len(same), batch_size):
                index = same[start : start + batch_size]
                yield index, source.gather(index, int(length))

    found = _Rows(len(clips))
    for index, samples in arriving(batches(), device):
        found.add(index, extracted(frontend, to_float(samples), config))
    return found.all()


def extracted(frontend: FrontendModule, waves: Tensor, config: FrontendConfig | None) -> dict[str, Tensor]:
    """``frontend.extract`` of a batch, after a check of what a plugin's frontend returns.

    Args:
        config: of the frontend; None for no check.

    Raises:
        PluginError: no dictionary of tensors, a missing name, another shape or kind of numbers.
    """
    found: Any = frontend.extract(waves)
    if config is None or config.plugin is None:
        return found
    names = (*config.embeddings, *config.own_scores)
    if not isinstance(found, dict):
        expected = f"a dictionary with {', '.join(names)}"
        raise wrong(frontend.extract, type(config), in_words(found), expected, "return one")
    if absent := [name for name in names if name not in found]:
        there = ", ".join(map(repr, found)) or "nothing"
        expected = f"{absent[0]!r} as well, which the configuration names"
        fix = "return a tensor of this name, or change `embeddings` or `own_scores` of the configuration"
        raise wrong(frontend.extract, type(config), f"a dictionary with {there}", expected, fix)
    for name, value in found.items():
        is_score = name not in config.embeddings
        allowed = (torch.float32, torch.float64, *((torch.float16, torch.bfloat16) if is_score else ()))
        dims = (1,) if is_score else (2, 3)
        if getattr(value, "dtype", None) in allowed and value.ndim in dims and len(value) == len(waves):
            continue
        shape = "(B,)" if is_score else "(B, D), or (B, F, D) for F bands"
        raise wrong(
            frontend.extract,
            type(config),
            f"{in_words(value)} as {name!r}",
            f"a tensor of float32 of shape {shape}, with B = {len(waves)} clips",
            "keep the clips in the first dimension, and convert other numbers by .float()",
        )
    return found


class _Rows:
    """The results of N clips on the CPU, filled batch by batch; a device holds those of two batches at most.

    The copy of a batch is waited for only after the next batch was given to the device: a GPU computes on
    while the CPU gathers clips.
    """

    def __init__(self, n_clips: int) -> None:
        self._n = n_clips
        self._found: dict[str, Tensor] = {}
        self._coming: tuple[Tensor, dict[str, Tensor], torch.cuda.Event | None] | None = None

    def add(self, index: NDArray[np.integer], values: Mapping[str, Tensor]) -> None:
        """Starts to copy the rows ``index`` from tensors ``(B, ...)`` by name."""
        coming = {name: value.to("cpu", non_blocking=True) for name, value in values.items()}
        event = None
        if any(value.is_cuda for value in values.values()):
            event = torch.cuda.Event()
            event.record()
        self._take()
        self._coming = torch.from_numpy(index), coming, event

    def all(self) -> dict[str, Tensor]:
        """Tensors ``(N, ...)`` by name, after the last batch."""
        self._take()
        return self._found

    def _take(self) -> None:
        """Puts the batch that is on its way into its rows."""
        if self._coming is None:
            return
        index, values, event = self._coming
        if event is not None:
            event.synchronize()
        for name, value in values.items():
            if name not in self._found:
                self._found[name] = value.new_empty((self._n, *value.shape[1:]))
            self._found[name][index] = value
        self._coming = None


def saved_values(frontend: FrontendModule, config: FrontendConfig) -> dict[str, Any]:
    """``frontend.saved()``; PluginError if that is no dictionary."""
    saved: Any = frontend.saved()
    if not isinstance(saved, dict):
        raise wrong(frontend.saved, type(config), in_words(saved), "a dictionary", "return one, such as {}")
    return saved


def checked_data(data: Any, frontend: FrontendModule, config: FrontendConfig) -> TrainingData:
    """A frontend's training ``data``, after a check of its attributes.

    Raises:
        PluginError: an attribute is missing, or ``sizes`` are no numbers of items.
    """
    missing = [name for name in ("items", "sizes", "epoch", "held_out") if not hasattr(data, name)]
    if missing:
        found = f"a {type(data).__name__} without {', '.join(missing)}"
        expected = "batches with items, sizes, epoch(rng) and held_out()"
        raise wrong(frontend.training_data, type(config), found, expected, "define what is missing")
    sizes: Any = data.sizes
    if not isinstance(sizes, tuple | list) or not all(isinstance(n, int) and n > 0 for n in sizes):
        found = f"sizes = {sizes!r}"
        fix = "let sizes be a tuple of whole numbers"
        raise wrong(type(data), type(config), found, "the number of items in every batch of an epoch", fix)
    return data
