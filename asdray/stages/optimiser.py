"""The optimiser of a training: steps, parameter groups, schedule, and averaged weights.

PyTorch's own classes do the work; here they are chosen by the options of a recipe.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from asdray.config.train import OneCycle, ParameterGroup, Train, warmup_steps

if TYPE_CHECKING:
    from asdray.frontends.base import FrontendModule

_NEAR_NAMES = 3


@dataclass(frozen=True)
class Plan:
    """The batches, steps and epochs of a training.

    Attributes:
        sizes: the number of items in every batch of an epoch.
        accumulate: batches per step; the last step of an epoch has the batches that are left.
        epochs: epochs at most; the last one may be a part of an epoch.
        n_steps: steps at most.
    """

    sizes: tuple[int, ...]
    accumulate: int
    epochs: int
    n_steps: int

    @classmethod
    def of(cls, sizes: Sequence[int], accumulate: int, options: Train) -> Plan:
        """The plan of a training with ``epochs`` or ``steps`` of the options."""
        per_epoch = -(-len(sizes) // accumulate)
        epochs = options.epochs or -(-(options.steps or 0) // per_epoch)
        return cls(tuple(sizes), accumulate, epochs, options.steps or epochs * per_epoch)

    def n_batches(self, epoch: int) -> int:
        """Batches of an epoch, from 0: all but in a last epoch that is a part of one."""
        per_epoch = -(-len(self.sizes) // self.accumulate)
        return min(len(self.sizes), (self.n_steps - epoch * per_epoch) * self.accumulate)

    def begins_step(self, batch: int) -> bool:
        """True for the first batch of a step."""
        return batch % self.accumulate == 0

    def ends_step(self, batch: int) -> bool:
        """True for the last batch of a step."""
        return (batch + 1) % self.accumulate == 0 or batch + 1 == len(self.sizes)

    def share(self, batch: int) -> float:
        """Share of a batch's items in the items of its step: gradients of means add up to the mean's."""
        first = batch // self.accumulate * self.accumulate
        return self.sizes[batch] / sum(self.sizes[first : first + self.accumulate])


def build_optimiser(frontend: FrontendModule, options: Train) -> torch.optim.Optimizer:
    """The optimiser of all parameters to learn.

    Raises:
        ValueError: a pattern of ``groups`` matches no parameter.
    """
    chosen = options.optimizer
    groups = parameter_groups(frontend, options)
    common: dict[str, Any] = {
        "lr": options.learning_rate,
        "weight_decay": options.weight_decay,
        "fused": True,
        **chosen.model_dump(exclude={"name"}),  # every option is an argument of PyTorch's class
    }
    match chosen.name:
        case "adamw":
            return torch.optim.AdamW(groups, **common)
        case "adam":
            return torch.optim.Adam(groups, **common)
        case "sgd":
            return torch.optim.SGD(groups, **common)


def parameter_groups(frontend: FrontendModule, options: Train) -> list[dict[str, Any]]:
    """The frontend's parameter groups, divided by the patterns of ``groups``.

    Parameters that no pattern matches come first, then those of each pattern in the patterns' order.

    Raises:
        ValueError: a pattern matches no parameter, or only parameters of an earlier pattern.
    """
    groups = frontend.parameter_groups(options)
    if not options.groups:
        return groups
    names = {id(p): name for name, p in frontend.named_parameters() if p.requires_grad}
    divided: list[tuple[int, dict[str, Any]]] = []
    for group in groups:
        parts: dict[int, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            parts.setdefault(_first_match(names[id(parameter)], options.groups), []).append(parameter)
        for i, params in parts.items():
            divided.append((i, {**group, "params": params, **_own_values(options.groups, i)}))
    _require_matches(options.groups, {i for i, _ in divided}, sorted(names.values()))
    return [group for _, group in sorted(divided, key=lambda pair: pair[0])]


def _first_match(name: str, patterns: Sequence[ParameterGroup]) -> int:
    """The position of the first pattern that matches a parameter's name; -1 for none."""
    return next((i for i, group in enumerate(patterns) if fnmatchcase(name, group.match)), -1)


def _own_values(patterns: Sequence[ParameterGroup], i: int) -> dict[str, float]:
    if i < 0:
        return {}
    own = {"lr": patterns[i].learning_rate, "weight_decay": patterns[i].weight_decay}
    return {name: value for name, value in own.items() if value is not None}


def _require_matches(patterns: Sequence[ParameterGroup], used: set[int], names: list[str]) -> None:
    """Raises ValueError for the first pattern that no parameter belongs to."""
    for i, group in enumerate(patterns):
        if i in used:
            continue
        if any(fnmatchcase(name, group.match) for name in names):
            raise ValueError(
                f"train.groups: {group.match!r} matches only parameters of earlier groups: put it before them"
            )
        near = difflib.get_close_matches(group.match, names, _NEAR_NAMES, cutoff=0.0)
        raise ValueError(
            f"train.groups: {group.match!r} matches none of the {len(names)} parameters to learn "
            f"(near names: {', '.join(near)})"
        )


def build_schedule(optimiser: torch.optim.Optimizer, options: Train, n_steps: int) -> LRScheduler | None:
    """The schedule of the learning rate, which moves once per step; None for a constant rate.

    Raises:
        ValueError: the rate would not fall within the ``n_steps`` of the training.
    """
    chosen = options.schedule
    n_warmup = warmup_steps(chosen, n_steps)
    if isinstance(chosen, OneCycle):
        return lr_scheduler.OneCycleLR(
            optimiser,
            max_lr=[group["lr"] for group in optimiser.param_groups],
            total_steps=n_steps,
            pct_start=chosen.warmup,
            div_factor=chosen.div_factor,
            final_div_factor=chosen.final_div_factor,
            cycle_momentum=chosen.cycle_momentum,
        )
    # Step k of W has k / W of the rate: a warm-up of one step has no step below the full rate.
    schedules: list[LRScheduler] = []
    if n_warmup > 1:
        schedules.append(lr_scheduler.LinearLR(optimiser, 1 / n_warmup, total_iters=n_warmup - 1))
    match chosen.name:
        case "cosine":
            n_left, lowest = n_steps - n_warmup, chosen.min_learning_rate
            schedules.append(lr_scheduler.CosineAnnealingLR(optimiser, n_left, eta_min=lowest))
        case "step":
            schedules.append(lr_scheduler.StepLR(optimiser, chosen.every, gamma=chosen.factor))
    if len(schedules) == 2:
        return lr_scheduler.SequentialLR(optimiser, schedules, milestones=[n_warmup])
    return schedules[0] if schedules else None


class AveragedWeights:
    """An exponential moving average of all that a training changes: weights, and statistics of batches.

    Args:
        decay: share of the earlier average that is kept in every step; the first step's values start it.
    """

    def __init__(self, frontend: FrontendModule, decay: float) -> None:
        frozen = frontend.frozen_state()
        state = {
            name: value
            for name, value in frontend.state_dict().items()
            if name not in frozen and value.is_floating_point()
        }
        self._names = list(state)
        self._current = _Tensors(list(state.values()))  # the frontend's own memory
        average = get_ema_multi_avg_fn(decay)
        self._averaged = AveragedModel(self._current, multi_avg_fn=average, use_buffers=True)

    def update(self) -> None:
        """Takes the frontend's values after a step into the average."""
        self._averaged.update_parameters(self._current)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, the frontend has the averaged values."""
        own = [value.clone() for value in self._current.buffers()]
        try:
            _copy(self._averaged.module.buffers(), self._current.buffers())
            yield
        finally:
            _copy(own, self._current.buffers())

    def state(self) -> dict[str, Any]:
        """The average for a checkpoint: number of steps, and name -> tensor."""
        tensors = dict(zip(self._names, self._averaged.module.buffers(), strict=True))
        return {"n_averaged": int(self._averaged.n_averaged), "tensors": tensors}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from the ``state`` of a checkpoint."""
        self._averaged.n_averaged.fill_(state["n_averaged"])
        _copy([state["tensors"][name] for name in self._names], self._averaged.module.buffers())


class _Tensors(nn.Module):
    """Tensors as buffers of a module, as `AveragedModel` takes them."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        super().__init__()
        for i, tensor in enumerate(tensors):
            self.register_buffer(str(i), tensor)


def _copy(values: Any, places: Any) -> None:
    with torch.no_grad():
        for value, place in zip(values, places, strict=True):
            place.copy_(value)
