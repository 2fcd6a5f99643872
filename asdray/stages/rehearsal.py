"""A rehearsal before the first epoch: one step on a copy of a frontend that has a plugin's code.

The first batch of the first epoch goes through the copy, so that no rehearsal fails which the training would
pass. Shapes are checked wherever a value is used; the rehearsal adds faults that a later stage would show, or
hours of training: no gradient, values that are not finite, values that no checkpoint can hold, keys that
extraction misses. The training itself stays as it was, byte for byte.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn

from asdray import frontends
from asdray.audio.batches import generator, torch_seed
from asdray.audio.features import to_float
from asdray.config.base import plugins_of
from asdray.config.plugin_fault import PREFIX, wrong
from asdray.frontends import compute
from asdray.frontends.base import extracted, saved_values
from asdray.frontends.discriminative import DiscriminativeFrontend
from asdray.frontends.plugin_branch import PluginBranch

if TYPE_CHECKING:
    from asdray.audio.batches import Clips
    from asdray.config.frontend import FrontendConfig
    from asdray.frontends.base import FrontendModule, TrainingData
    from asdray.stages.train import UnitTraining

_CLIPS = 3
"""Clips that are extracted."""


def rehearse(
    training: UnitTraining, frontend: FrontendModule, data: TrainingData, clips: Clips, device: torch.device
) -> None:
    """One step of training and an extraction, on a copy; nothing for a frontend without a plugin's code.

    Raises:
        PluginError: a fault of the plugin, with its line. Exceptions from the plugin's code pass.
    """
    config, trial = training.trial.system.frontend, training.trial
    if not plugins_of(config):
        return
    try:
        double = copy.deepcopy(frontend)
    except Exception:  # a module that cannot be copied is no fault: its training shows what it does
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(torch_seed(generator(trial.seed, f"{training.unit.name}/torch", 0)))
        batches: Any = data.epoch(generator(trial.seed, training.unit.name, 0))
        for batch in batches if isinstance(batches, Iterable) else ():  # the training tells that it is none
            with _watched(double), compute.precision(trial.system.train.precision, device):
                loss = double.loss(move_data_to_device(batch, device))
            _check_loss(loss, double, config)
            break
        if config.plugin is not None:
            _check_saved(double, config, trial.system.audio.n_samples(trial.dcase))
        if not frontend.needs_training_clips:
            few = np.arange(min(_CLIPS, len(clips)))
            waves = clips.gather(few, trial.system.audio.n_samples(trial.dcase)).to(device)
            with torch.inference_mode():
                extracted(double.eval(), to_float(waves), config)


class _watched:  # noqa: N801 - used as a context
    """Checks of a plugin's networks and losses while a discriminative frontend computes."""

    def __init__(self, frontend: FrontendModule) -> None:
        self._watched: list[tuple[nn.Module, Callable[..., None]]] = []
        if isinstance(frontend, DiscriminativeFrontend):
            branches = [branch for branch in frontend.branches if isinstance(branch, PluginBranch)]
            self._watched += [(branch.network, _check_network) for branch in branches]
            own = [loss for loss in frontend.losses if type(loss).__module__.startswith(PREFIX)]
            self._watched += [(loss, _check_loss_of) for loss in own]
        self._hooks: list[Any] = []

    def __enter__(self) -> None:
        self._hooks = [module.register_forward_hook(check) for module, check in self._watched]

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()


def _finite(value: Any) -> bool:
    return not isinstance(value, Tensor) or bool(value.detach().isfinite().all())


def _check_network(network: nn.Module, given: tuple[Any, ...], found: Any) -> None:
    """A forward hook: the output is finite, and learns if the network has weights to learn."""
    if not isinstance(found, Tensor) or not found.is_floating_point():
        return  # told by the branch
    learns = any(p.requires_grad for p in network.parameters())
    if learns and not found.requires_grad:
        raise wrong(
            network.forward,
            type(network),
            "an output without a gradient",
            "one that depends on the network's weights",
            "compute it with torch alone, without .detach(), .numpy() or no_grad",
        )
    if _finite(given[0]) and not _finite(found):
        rows = int((~found.detach().flatten(1).isfinite().all(dim=1)).sum()) if found.ndim > 1 else 1
        raise wrong(
            network.forward,
            type(network),
            f"NaN or infinite numbers for {rows} of {len(found)} clips",
            "finite numbers",
            "look at logarithms, divisions and roots of zero: a clip may be silent",
        )


def _check_loss_of(loss: nn.Module, given: tuple[Any, ...], found: Any) -> None:
    """A forward hook: the loss is finite and has a gradient with regard to the embeddings."""
    embeddings = given[0]
    if not isinstance(found, Tensor) or found.shape or not _finite(embeddings):
        return  # told elsewhere, or no fault of the loss
    gradient = None
    if found.requires_grad and embeddings.requires_grad:
        (gradient,) = torch.autograd.grad(found, embeddings, retain_graph=True, allow_unused=True)
    if gradient is None and embeddings.requires_grad:
        raise wrong(
            loss.forward,
            type(loss),
            "a number without a gradient",
            "a loss that depends on the embeddings",
            "compute it from the embeddings with torch alone, without .item(), .detach() or numpy",
        )
    if not (_finite(found) and _finite(gradient)):
        fault = f"the loss {found.item():g}" if not _finite(found) else "a gradient with NaN or infinity"
        raise wrong(loss.forward, type(loss), fault, "finite numbers", _ROOTS)


_ROOTS = "look at logarithms, divisions and roots of zero"


def _check_loss(loss: Any, frontend: FrontendModule, config: FrontendConfig) -> None:
    """The loss of a plugin's frontend is finite; shape and gradient are told by the training itself."""
    if config.plugin is not None and isinstance(loss, Tensor) and not loss.shape and not _finite(loss):
        raise wrong(frontend.loss, type(config), f"the loss {loss.item():g}", "a finite number", _ROOTS)


def _check_saved(frontend: FrontendModule, config: FrontendConfig, n_samples: int) -> None:
    """A checkpoint can hold what ``saved()`` returns, and builds a frontend with the same weights."""
    saved = saved_values(frontend, config)
    content = io.BytesIO()
    try:
        torch.save(saved, content)
        content.seek(0)
        again = torch.load(content, weights_only=True)
    except (pickle.UnpicklingError, TypeError, AttributeError) as error:
        values = ", ".join(f"{name}: {type(value).__name__}" for name, value in saved.items())
        raise wrong(
            frontend.saved,
            type(config),
            f"values that a checkpoint cannot hold ({values})",
            "numbers, texts, tensors, and lists and dictionaries of these",
            "convert arrays by torch.from_numpy or .tolist()",
        ) from error
    rebuilt = frontends.construct(config, n_samples, saved=again)
    ours, theirs = ({n: v.shape for n, v in one.state_dict().items()} for one in (frontend, rebuilt))
    if ours != theirs:
        name = next(n for n in {**ours, **theirs} if ours.get(n) != theirs.get(n))
        raise wrong(
            type(frontend),
            type(config),
            f"a tensor {name!r} of shape {_shape(theirs.get(name))} when it is built from saved()",
            f"the shape {_shape(ours.get(name))} that was trained",
            "save what decides the shape, and read it from `saved` in __init__",
        )


def _shape(shape: torch.Size | None) -> str:
    return "(no such tensor)" if shape is None else str(tuple(shape))
