"""Forward and backward pass recorded as a CUDA graph, and batches on their way to a GPU.

A network of small layers leaves a GPU idle between its kernels, since Python starts them one by one. A graph
starts all kernels of a pass at once. Both parts work on a CPU as well, where nothing is recorded and nothing
travels: the values are the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from asdray.frontends import compute

WARM_UPS = 3
"""Passes before a recording, in which libraries reserve their memory; the module's state is put back."""

MOST_AHEAD = 2
"""Batches whose steps may wait for the GPU: bounds the memory of batches that are on their way."""


class RecordedPass:
    """Forward and backward pass of a module for batches of one shape, recorded on a GPU and then replayed.

    A replay copies the batch to the place that the recording reads, and gives every parameter the gradient
    that the recording has written. Random numbers on the GPU are drawn anew in every replay. Choices that
    Python makes, and numbers that the CPU draws, are frozen: a module with such choices cannot be recorded.

    Args:
        module: its parameters get the gradients.
        loss: batch -> the loss, ``()``; computes with ``module``.
        batch: the first batch: tensors on the module's device, in tuples, lists or dictionaries.

    Raises:
        ValueError: the pass cannot be recorded, for example since Python reads a value from the GPU.
    """

    def __init__(self, module: nn.Module, loss: Callable[[Any], Tensor], batch: Any) -> None:
        leaves, self._form = tree_flatten(batch)
        self._inputs = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._loss = loss
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        self._graph: torch.cuda.CUDAGraph | None = None
        device = next(iter(self._parameters)).device
        if device.type == "cuda":
            try:
                self._record(module, device)
            except RuntimeError as error:
                if compute.is_out_of_memory(error):
                    raise
                reason = str(error).partition("\n")[0]
                raise ValueError(
                    f"train.cuda_graphs: the training step cannot be recorded ({reason}): leave the option "
                    "out"
                ) from error

    def fits(self, batch: Any) -> bool:
        """True if the batch has the form, shapes and kinds of numbers of the first one."""
        leaves, form = tree_flatten(batch)
        return form == self._form and all(
            (one.shape, one.dtype) == (other.shape, other.dtype) if isinstance(one, Tensor) else one == other
            for one, other in zip(self._inputs, leaves, strict=True)
        )

    def __call__(self, batch: Any) -> Tensor:
        """The loss of a batch that fits, ``()`` without gradient; parameters get new gradients."""
        for own, given in zip(self._inputs, tree_flatten(batch)[0], strict=True):
            if isinstance(own, Tensor):
                own.copy_(given, non_blocking=True)
        if self._graph is None:
            return self._pass()
        self._graph.replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._result.clone()

    @property
    def inputs(self) -> Any:
        """The batch that a replay reads: at first the one that was recorded."""
        return tree_unflatten(self._inputs, self._form)

    def _pass(self) -> Tensor:
        for parameter in self._parameters:
            parameter.grad = None
        loss = self._loss(self.inputs)
        loss.backward()
        return loss.detach()

    def _record(self, module: nn.Module, device: torch.device) -> None:
        kept = [(buffer, buffer.clone()) for buffer in module.buffers()]
        here, aside = torch.cuda.current_stream(device), torch.cuda.Stream(device)
        aside.wait_stream(here)
        with torch.cuda.stream(aside), torch.random.fork_rng(devices=[device]):
            for _ in range(WARM_UPS):
                self._pass()
            for buffer, value in kept:
                buffer.copy_(value)
        here.wait_stream(aside)
        for parameter in self._parameters:
            parameter.grad = None
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._result = self._pass()
        self._gradients = [parameter.grad for parameter in self._parameters]
        self._graph = graph


def arriving(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """The batches with their tensors on ``device``.

    For a GPU, batches are gathered and copied in a stream of their own, while the steps before still compute.
    No batch may depend on results of these steps.

    Args:
        batches: tensors, in tuples, lists or dictionaries; other values stay as they are.
    """
    if device.type != "cuda":
        yield from batches
        return

    def there(value: Any) -> Any:
        return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value

    aside = torch.cuda.Stream(device)
    aside.wait_stream(torch.cuda.current_stream(device))  # audio and weights may still be on their way
    steps: deque[torch.cuda.Event] = deque()
    iterator = iter(batches)
    while True:
        if len(steps) == MOST_AHEAD:
            steps.popleft().synchronize()
        with torch.cuda.stream(aside):
            try:
                batch = tree_map(there, next(iterator))
            except StopIteration:
                return
        here = torch.cuda.current_stream(device)
        here.wait_stream(aside)
        _used_in(here, batch)
        once = [batch]
        del batch
        yield once.pop()  # no reference stays here: the step may free the batch before its backward pass
        steps.append(here.record_event())


def _used_in(stream: torch.cuda.Stream, batch: Any) -> None:
    """Tells torch that the tensors of a batch are also read in ``stream``, before they are freed."""
    for value in tree_flatten(batch)[0]:
        if isinstance(value, Tensor):
            value.record_stream(stream)
