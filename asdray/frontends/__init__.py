"""Frontends: models that turn clips into embeddings for the backends, or into anomaly scores of their own.

A frontend is a configuration class in `asdray.config.frontend` (options, and everything that planning asks),
a torch module that derives from `asdray.frontends.base.FrontendModule` (the computation), and a case in
`construct`. A frontend in a user's file needs no case, see `asdray.config.plugin`. Torch, no Lightning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asdray.config.frontend import FrontendConfig
    from asdray.frontends.base import FrontendModule

    Columns = Mapping[str, Sequence[Any]]
    """Columns ``machine``, ``section``, ``attributes`` and ``domain``, with one value per clip; for a
    frontend that reads supplemental clips also ``supplemental``, see `asdray.config.frontend_base`, and for
    one with a clustering ``cluster``, a number or None."""


def build(
    config: FrontendConfig,
    n_samples: int,
    *,
    columns: Columns | None = None,
    test_classes: Columns | None = None,
    saved: Mapping[str, Any] | None = None,
    files: Mapping[str, Mapping[str, Path]] | None = None,
    seed: int = 0,
) -> FrontendModule:
    """A frontend with fresh weights, on the CPU. Torch's global generator is neither used nor changed.

    Example:
        An autoencoder for clips of 10 s::

            frontend = build(Autoencoder(n_mels=64), 160_000, columns={})
            frontend.extract(torch.zeros(2, 160_000))["embedding"].shape  # (2, 8)

    Args:
        n_samples: samples per clip.
        columns: the unit's training clips, for a frontend that is going to be trained; or
        saved: the return value of the trained frontend's ``saved()``, for weights that are loaded afterwards.
        test_classes: one value per class among the test clips, if training knows their classes.
        files: kind -> machine -> path of the configuration's ``input_files``.
        seed: decides the initial weights.

    Raises:
        ValueError: the configuration does not fit the clips or the classes, an input file is unusable, or a
            plugin's class is no frontend.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        frontend = construct(config, n_samples, columns, test_classes, saved)
        frontend.load_frozen(files or {})
    for name in frontend.frozen:
        frontend.get_submodule(name).eval().requires_grad_(False)
    return frontend


def construct(
    config: FrontendConfig,
    n_samples: int,
    columns: Columns | None = None,
    test_classes: Columns | None = None,
    saved: Mapping[str, Any] | None = None,
) -> FrontendModule:
    """The frontend of `build` without the weights of files, drawn from torch's global generator.

    Only its own imports are made, which take seconds.
    """
    from asdray.config import frontend
    from asdray.config.base import UNIONS, implementation
    from asdray.config.plugin_members import Known

    if from_plugin := implementation(config):
        made = from_plugin(config, n_samples, Known.of(columns, "columns"), Known.of(saved, "saved"))
        UNIONS["FRONTENDS"].interface.check_instance(config, made, learns=config.learns)
        return made
    match config:
        case frontend.Discriminative():
            from asdray.frontends.discriminative import (
                DiscriminativeFrontend,
                class_names,
                head_classes,
                learnt,
            )

            if saved is None:
                assert columns is not None
                columns = learnt(config, columns)
                classes = class_names(config.class_parts, columns, test_classes)
                of_heads = head_classes(config, columns, test_classes)
            else:
                classes, of_heads = saved["classes"], saved.get("head_classes", [])
            return DiscriminativeFrontend(config, n_samples, classes, of_heads)
        case frontend.Autoencoder():
            from asdray.frontends.autoencoder import AutoencoderFrontend

            return AutoencoderFrontend(config)
        case frontend.RawSpec():
            from asdray.frontends.raw import RawSpecFrontend

            return RawSpecFrontend(config)
        case frontend.Encoder():
            from asdray.frontends.encoder import EncoderFrontend

            return EncoderFrontend(config)
    raise TypeError(f"{config.label} computes nothing from audio")
