"""Options of training, for every frontend that learns: below ``train:`` of a recipe.

Each option beyond the plain ones changes the hash of the systems that use the option, and of no others::

    train:
      steps: 2000
      epochs: null
      batch_size: 8
      accumulate: 4
      optimizer: {name: adamw, betas: [0.9, 0.98]}
      groups: [{match: "head.*", learning_rate: 1.0e-2}]
      schedule: {name: cosine, warmup: 0.1}
      gradient_clip: 1.0
      ema: 0.999

A step is a step of the optimiser. PyTorch's own optimisers, schedules and averages do the work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from asdray.config.base import Config, Positive, by_name

# ------------------------------------------------------------------------------------------------ optimisers

Beta = Annotated[float, Field(ge=0, lt=1)]


class AdamW(Config):
    """Adam with decoupled weight decay. Source: Loshchilov and Hutter, ICLR 2019.

    Example: ``optimizer: {name: adamw, betas: [0.9, 0.98]}``
    """

    name: Literal["adamw"] = "adamw"
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay of the averages of the gradient and of its square."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of the averaged square."""


class Adam(Config):
    """Adam; ``weight_decay`` is added to the gradient. Source: Kingma and Ba, ICLR 2015.

    Example: ``optimizer: adam``
    """

    name: Literal["adam"] = "adam"
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay of the averages of the gradient and of its square."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of the averaged square."""


class Sgd(Config):
    """Gradient descent, with momentum if wanted; ``weight_decay`` is added to the gradient.

    Example: ``optimizer: {name: sgd, momentum: 0.9, nesterov: true}``
    """

    name: Literal["sgd"] = "sgd"
    momentum: Beta = 0.0
    """Share of the previous step that is kept."""
    nesterov: bool = False
    """If true, Nesterov's momentum."""

    @model_validator(mode="after")
    def _momentum_given(self) -> Sgd:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0, such as momentum: 0.9")
        return self


Optimizer = Annotated[AdamW | Adam | Sgd, Field(discriminator="name"), BeforeValidator(by_name)]


class ParameterGroup(Config):
    """Parameters with a learning rate or weight decay of their own.

    Example: ``{match: "branches.0.*", learning_rate: 1.0e-4}``
    """

    match: Annotated[str, Field(min_length=1)]
    """Pattern of parameter names, as in a checkpoint without ``frontend.``; ``*`` stands for any text. A
    parameter belongs to the first group that matches."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """In place of the learning rate of the training or the frontend; null keeps the rate."""
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    """In place of the weight decay of the training or the frontend; null keeps the decay."""

    @model_validator(mode="after")
    def _changes_something(self) -> ParameterGroup:
        if self.learning_rate is None and self.weight_decay is None:
            raise ValueError(f"the group {self.match!r} needs a learning_rate or a weight_decay")
        return self


# ------------------------------------------------------------------------------------------------- schedules

Warmup = Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)]
"""A number of steps, or a share below 1 of all steps."""


class Constant(Config):
    """The learning rate itself, after a linear warm-up if wanted.

    Example: ``schedule: {name: constant, warmup: 500}``
    """

    name: Literal["constant"] = "constant"
    warmup: Warmup = 0
    """Steps, or share of all steps, in which the rate rises: step k of W has k / W of the rate. With
    ``constant`` a training may end before."""


class Cosine(Config):
    """Half a cosine from the learning rate down to the smallest one, after a linear warm-up if wanted.

    Source: Loshchilov and Hutter, SGDR, ICLR 2017, without restarts.

    Example: ``schedule: {name: cosine, warmup: 0.1}``
    """

    name: Literal["cosine"] = "cosine"
    warmup: Warmup = 0
    """As in ``constant``."""
    min_learning_rate: Annotated[float, Field(ge=0)] = 0.0
    """Rate after the last step."""


class StepDecay(Config):
    """The learning rate, multiplied by a factor after every so many steps.

    Example: ``schedule: {name: step, every: 1000, factor: 0.5}``
    """

    name: Literal["step"] = "step"
    every: Positive
    """Steps between two changes; counted after the warm-up."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Factor of every change."""
    warmup: Warmup = 0
    """As in ``constant``."""


class OneCycle(Config):
    """The one-cycle policy: cosines from a small rate up to the learning rate, and down to nearly nothing.

    Source: Smith and Topin, Super-Convergence, 2018, as in PyTorch.

    Example: ``schedule: {name: one_cycle, warmup: 0.3}``
    """

    name: Literal["one_cycle"] = "one_cycle"
    warmup: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of all steps in which the rate rises."""
    div_factor: Annotated[float, Field(ge=1)] = 25.0
    """Learning rate divided by the first rate."""
    final_div_factor: Annotated[float, Field(ge=1)] = 1e4
    """First rate divided by the last rate."""
    cycle_momentum: bool = True
    """If true, the momentum (of Adam the first beta) falls from 0.95 to 0.85 while the rate rises, and rises
    while the rate falls."""


Schedule = Annotated[
    Constant | Cosine | StepDecay | OneCycle, Field(discriminator="name"), BeforeValidator(by_name)
]


# -------------------------------------------------------------------------------------------------- training


Share = Annotated[float, Field(gt=0, lt=1)]


class EarlyStopping(Config):
    """The end of a training whose loss of held-out normal data no longer falls.

    Example: ``early_stopping: {patience: 5, min_delta: 0.001}``
    """

    patience: Positive = 5
    """Epochs without an improvement after which the training ends."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """Smallest fall of the loss below its lowest value that counts as an improvement."""


class HoldOut(Config):
    """Shares of clips to hold out, by domain. Few target clips need a large share.

    Example: ``hold_out: {source: 0.1, target: 0.5}``
    """

    source: Share = 0.1
    """Share of the source clips."""
    target: Share = 0.5
    """Share of the target clips."""


class Train(Config):
    """Training of a unit; options of the optimiser not listed here have PyTorch's defaults.

    Example: ``train: {epochs: 16, batch_size: 64, learning_rate: 1.0e-3}``
    """

    epochs: Positive | None = 16
    """Passes over the training data; null if ``steps`` is given."""
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Clips (discriminative) or input vectors (autoencoder) per batch; the last, smaller one is used too."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Step size, constant without a ``schedule``."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decay of weights: decoupled with AdamW, added to the gradient with the other optimisers."""
    threads: Positive = 1
    """CPU threads. The number changes the order of sums, hence the last digits: the system becomes
    another."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of matrix products in training steps. ``bf16`` has 8 significant bits, and is faster on
    GPUs and on CPUs with AVX-512 or AMX. Sums, weights, and all stages after training have 32 bits."""
    steps: Positive | None = None
    """Steps of the optimiser, in place of ``epochs``; the last epoch may be a part of one."""
    accumulate: Positive = 1
    """Batches per step. The step has the mean gradient over all items of these batches; the last step of an
    epoch has the batches that are left."""
    optimizer: Optimizer = AdamW()
    """``adamw``, ``adam`` or ``sgd``, or an object with options."""
    groups: tuple[ParameterGroup, ...] = ()
    """Parameters with a learning rate or weight decay of their own."""
    schedule: Schedule = Constant()
    """Learning rate by step, the rates of parameter groups as well: ``constant``, ``cosine``, ``step`` or
    ``one_cycle``, all with a warm-up if wanted."""
    gradient_clip: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of the gradient over all parameters; null for no limit."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an exponential moving average of the weights, updated after every step. Extraction and the
    loss of held-out data use the average; checkpoints hold both. Null for none."""
    early_stopping: EarlyStopping | None = None
    """End before the last epoch; needs held-out data (``frontend.validation``). ``best`` is the checkpoint of
    the lowest loss."""
    hold_out: HoldOut | Share | None = None
    """Share of the clips of every machine, section and domain that is never trained on, at least one clip
    each, or a share per domain: decision thresholds are made of their scores. The names of the clips decide
    which ones, not the seed. Null for none: thresholds are of all training clips."""

    compile: bool = False
    """If true, PyTorch's compiler joins operations of the loss and of its gradient to fewer kernels, after
    about a minute per unit and size of batch; last digits differ. Meant for GPUs; a CPU needs a C++
    compiler."""
    cuda_graphs: bool = False
    """If true, forward and backward pass of the full batches are recorded on a GPU as a CUDA graph and
    replayed, for small networks whose kernels end before Python starts the next one. A CPU computes as
    without. Not with ``accumulate``, with ``frontend.spec_augment``, or with an encoder that learns with
    ``dropout: published``, since the CPU draws which blocks are left out."""

    later: ClassVar = {
        "compile": False,
        "cuda_graphs": False,
        "precision": "fp32",
        "steps": None,
        "accumulate": 1,
        "optimizer": AdamW(),
        "groups": (),
        "schedule": Constant(),
        "gradient_clip": None,
        "ema": None,
        "early_stopping": None,
        "hold_out": None,
    }

    @model_validator(mode="before")
    @classmethod
    def _steps_alone(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("steps") is not None and "epochs" not in value:
            return {**value, "epochs": None}
        return value

    @model_validator(mode="after")
    def _fits(self) -> Train:
        if (self.epochs is None) == (self.steps is None):
            given = f"epochs: {self.epochs} and steps: {self.steps}" if self.steps else "no length"
            raise ValueError(f"a training has {given}: give epochs or steps, and null for the other")
        rates = [self.learning_rate, *(g.learning_rate for g in self.groups if g.learning_rate is not None)]
        if isinstance(self.schedule, Cosine) and self.schedule.min_learning_rate >= min(rates):
            raise ValueError(
                f"schedule.min_learning_rate is {self.schedule.min_learning_rate:g}, not below the learning "
                f"rate {min(rates):g}: choose a smaller one"
            )
        matches = [group.match for group in self.groups]
        if twice := next((m for i, m in enumerate(matches) if m in matches[:i]), None):
            raise ValueError(f"groups match {twice!r} twice: join both groups")
        if self.steps:
            warmup_steps(self.schedule, self.steps)
        if self.cuda_graphs and self.accumulate > 1:
            raise ValueError(
                f"cuda_graphs records the gradient of one batch per step, but accumulate is "
                f"{self.accumulate}: choose accumulate: 1, or leave cuda_graphs out"
            )
        return self

    @property
    def held_out_shares(self) -> dict[str, float]:
        """Domain -> share of the clips that is held out; empty without ``hold_out``."""
        if self.hold_out is None:
            return {}
        if isinstance(self.hold_out, HoldOut):
            return self.hold_out.model_dump()
        return dict.fromkeys(("source", "target"), self.hold_out)

    @property
    def known_epochs(self) -> int | None:
        """The number of epochs if known before training; None with ``steps`` or ``early_stopping``."""
        return None if self.early_stopping else self.epochs

    @property
    def why_unknown(self) -> str:
        """The option that makes the number of epochs unknown, for error messages."""
        return f"train.steps is {self.steps}" if self.steps else "train.early_stopping may end sooner"


def warmup_steps(schedule: Schedule, n_steps: int) -> int:
    """Steps of a schedule's warm-up in a training of ``n_steps`` steps.

    A warm-up to a constant rate may be longer than the training: recipes state steps for a whole year.

    Raises:
        ValueError: a schedule never begins to fall, or a cycle's rise has no step.
    """
    warmup = schedule.warmup
    if isinstance(schedule, OneCycle) and warmup * n_steps <= 1:
        raise ValueError(
            f"train.schedule: a warm-up of {warmup:g} is no step of the {n_steps} steps of the training: "
            "choose a larger share"
        )
    n = round(warmup * n_steps) if isinstance(warmup, float) else warmup
    if n >= n_steps and not isinstance(schedule, Constant):
        raise ValueError(
            f"train.schedule: a warm-up of {warmup:g} does not end within the {n_steps} steps of the "
            "training: choose a shorter one, or a share such as 0.1"
        )
    return n
