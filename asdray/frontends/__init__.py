"""Frontends: what turns audio into embeddings, or into a score of its own. Plain torch, no Lightning.

`build` is the one place that chooses by configuration: a new frontend is a configuration class in
`asdray.config.frontend`, one module class and one case (or, in a user's file, see `asdray.config.plugin`). A
frontend is an `asdray.frontends.base.FrontendModule`: a torch module with

* ``saved() -> dict``: plain values that a checkpoint must hold besides the weights to build it again;
* ``extract(waves) -> dict``: ``embedding (B, D) float32``, and each of its own scores ``(B,)``;
* ``shortest``: samples; a shorter clip is repeated, also where every clip has its own length;
* ``prepare(clips, columns, batch_size, rng)``: takes what extraction must know of the training clips, if
  ``needs_training_clips``.

One that learns has besides

* ``training_data(clips, columns, batch_size, rng)``: what is trained on, see `TrainingData`;
* ``loss(batch) -> Tensor``: the mean loss of one batch of that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

    from asdray.config.frontend import Autoencoder, Discriminative, RawSpec
    from asdray.frontends.autoencoder import AutoencoderFrontend
    from asdray.frontends.discriminative import DiscriminativeFrontend
    from asdray.frontends.raw import RawSpecFrontend

    Learning = DiscriminativeFrontend | AutoencoderFrontend
    Frontend = Learning | RawSpecFrontend

COLUMNS = ("machine", "section", "attributes", "domain")
"""Columns of the manifest that training may see."""


class TrainingData(Protocol):
    """Batches of a unit's training clips.

    Attributes:
        items: what a batch counts, ``clips`` or ``vectors``.
        sizes: the size of every batch of an epoch.
    """

    items: str
    sizes: tuple[int, ...]

    def epoch(self, rng: np.random.Generator) -> Iterator[Any]:
        """The batches of an epoch; all random choices come from ``rng``."""
        ...

    def held_out(self) -> Iterator[Any]:
        """Batches, each with its ``len``, that are never trained on, for ``validation_loss``; may be none."""
        ...


def build(
    config: Discriminative | Autoencoder | RawSpec,
    n_samples: int,
    *,
    columns: Mapping[str, Sequence[Any]] | None = None,
    unheard: Mapping[str, Sequence[Any]] | None = None,
    saved: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Frontend:
    """A frontend with fresh weights, on the CPU.

    Args:
        n_samples: samples per clip.
        columns: `COLUMNS` of the manifest for the training clips, to train anew (``unheard``: the same
            columns of classes that there are besides, without a training clip); or
        saved: what ``saved()`` of the trained frontend gave, to load its weights.
        seed: of the initial weights. Torch's global generator is neither used nor changed.

    Raises:
        ValueError: the configuration does not fit the clips or the classes; a plugin's frontend is none.
    """
    import torch

    from asdray.config import frontend
    from asdray.config.base import implementation
    from asdray.frontends.base import checked

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if from_plugin := implementation(config):
            return checked(from_plugin(config, n_samples, columns, saved), config)
        match config:
            case frontend.Discriminative():
                from asdray.frontends.discriminative import DiscriminativeFrontend, class_labels
                from asdray.frontends.losses import require_classes

                if saved is not None:
                    classes = saved["classes"]
                else:
                    assert columns is not None
                    known = set(class_labels(config.classes, columns))
                    if unheard is not None:
                        require_classes(len(known))  # by those that no training clip has nothing is learnt
                        known |= set(class_labels(config.classes, unheard))
                    classes = sorted(known)
                return DiscriminativeFrontend(config, n_samples, classes)
            case frontend.Autoencoder():
                from asdray.frontends.autoencoder import AutoencoderFrontend

                return AutoencoderFrontend(config)
            case frontend.RawSpec():
                from asdray.frontends.raw import RawSpecFrontend

                return RawSpecFrontend(config)
