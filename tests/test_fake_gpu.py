"""Losses and embeddings on a GPU, as far as this can be tried without one.

PyTorch's fake tensors have a shape, a type and a device, but no values. An operation on tensors of two devices
is an error, as on a GPU, and so is reading a value back, for which a GPU would have to finish all its work.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._pytree import tree_map

from asdray import frontends
from asdray.audio import kaldi
from asdray.audio.batches import Clips
from asdray.audio.cache import Pack
from asdray.config.branch import EncoderBranch as EncoderBranchConfig
from asdray.config.recipe_files import recipe_names
from asdray.config.system import System, load_recipe, with_overrides
from asdray.frontends import compute
from asdray.frontends.encoder import EncoderFrontend
from asdray.frontends.encoder_branch import EncoderBranch
from asdray.frontends.encoders import convolution
from asdray.frontends.encoders.beats import Beats
from asdray.frontends.encoders.eat import Eat

GPU = torch.device("cuda:0")
MODE = FakeTensorMode()
"""One for all tests: windows and filters are kept by device, also fake ones."""

N_CLIPS, SECONDS = 4, 5
NAMES = [name for name in recipe_names() if not name.endswith("_asdkit")]
"""Recipes that end so are other settings of the same parts."""
OPTIONS: dict[str, dict[str, Any]] = {
    "dynamic scale": {"frontend.loss": {"name": "subcluster_adacos", "dynamic": True, "trainable": True}},
    "contrast": {"frontend.loss": {"name": "supcon"}},
    "both mixed": {
        "frontend.loss": {"name": "arcface", "margin_on": "each"},
        "frontend.mixup_of": "spectrogram",
    },
    "bf16": {"train.precision": "bf16"},
}


@pytest.fixture(autouse=True, scope="module")
def no_fakes_are_kept():
    """Nor do tests here find real tensors of other tests."""
    kept = kaldi._window, kaldi._filters, convolution._fourier, convolution._inverse
    for cached in kept:
        cached.cache_clear()
    yield
    for cached in kept:
        cached.cache_clear()


@pytest.fixture(autouse=True)
def small_encoders(monkeypatch):
    """Encoders of narrow blocks, without weight files."""
    for network in (Beats, Eat):
        monkeypatch.setattr(network, "shape", (12, 48, 3))

    def load(self, path):
        self.network.to_empty(device="cpu")
        self.tune()

    monkeypatch.setattr(EncoderBranch, "load", load)
    monkeypatch.setattr(
        EncoderFrontend, "load_frozen", lambda self, files: self.network.to_empty(device="cpu")
    )


def clips() -> Clips:
    """Noise, as a pack in memory."""
    length = SECONDS * 16_000
    samples = np.random.default_rng(0).integers(-3000, 3000, (N_CLIPS * length, 1), dtype=np.int16)
    keys = tuple(f"clip{i}" for i in range(N_CLIPS))
    return Clips(
        [Pack("dcase2023", "a", "train", "", keys, samples, np.arange(N_CLIPS + 1) * length, 16_000)]
    )


def on_gpu(value: Any) -> Any:
    with MODE:
        return MODE.from_tensor(value).to(GPU) if isinstance(value, Tensor) else value


def module_on_gpu(module: nn.Module) -> nn.Module:
    """The module with fake tensors on a GPU in place of its own."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                there = on_gpu(value.detach())
                part._parameters[name] = nn.Parameter(there, requires_grad=value.requires_grad)
        for name, buffer in part._buffers.items():
            part._buffers[name] = on_gpu(buffer)
    return module


def built(system: System) -> tuple[Any, Any]:
    """A frontend on the CPU, and clips for it."""
    labels = ["a", "b", "c", "d"]
    columns = {"machine": labels, "section": [0] * 4, "attributes": labels, "domain": ["source"] * 4}
    columns["cluster"] = [0, 1, 0, 1]
    files = {f"encoder{i}": {"a": "none"} for i in ("", 2, 3)}
    frontend = frontends.build(system.frontend, SECONDS * 16_000, columns=columns, files=files)
    return frontend, columns


def check_loss(system: System) -> None:
    system.check("dcase2026")
    frontend, columns = built(system)
    frontend.train()
    data = frontend.training_data(clips(), columns, N_CLIPS, np.random.default_rng(0))
    batch = next(iter(data.epoch(np.random.default_rng(0))))
    frontend, batch = module_on_gpu(frontend), tree_map(on_gpu, batch)
    with MODE, compute.precision(system.train.precision, GPU):
        loss = frontend.loss(batch)
    assert (loss.device, loss.shape, loss.requires_grad) == (GPU, (), True)


@pytest.mark.parametrize("name", [name for name in NAMES if load_recipe(name).frontend.learns])
def test_a_loss_is_computed_on_the_gpu_alone_and_reads_nothing_back(name):
    """But for the blocks that an encoder leaves out, which the CPU draws."""
    system = load_recipe(name).system
    for i, branch in enumerate(getattr(system.frontend, "branches", ())):
        if isinstance(branch, EncoderBranchConfig):
            system = with_overrides(system, {f"frontend.branches.{i}.dropout": "none"}, "x")
    check_loss(with_overrides(system, {"train.cuda_graphs": True}, "x"))


def test_no_recording_is_offered_for_a_loss_that_reads_a_value_back():
    masks = {"frontend.spec_augment": {}}
    system = with_overrides(load_recipe("dis_baseline").system, masks, "x")
    with pytest.raises(DataDependentOutputException):
        check_loss(system)
    with pytest.raises(ValueError, match=r"cannot record frontend.spec_augment"):
        check_loss(with_overrides(system, {"train.cuda_graphs": True}, "x"))


@pytest.mark.parametrize("option", OPTIONS)
def test_so_is_the_loss_with_other_options(option):
    check_loss(with_overrides(load_recipe("dis_baseline").system, OPTIONS[option], "x"))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "raw_aisfx"])  # its filters are not fake
def test_embeddings_are_computed_on_the_gpu_alone(name):
    system = load_recipe(name).system
    if not system.frontend.reads_audio:
        return
    frontend, _ = built(system)
    frontend = module_on_gpu(frontend.eval())
    waves = on_gpu(torch.zeros(2, SECONDS * 16_000))
    if frontend.needs_training_clips:
        frontend._roots = [on_gpu(torch.eye(frontend.filters.shape[0], dtype=torch.float64))]
    with MODE, torch.no_grad():
        found = frontend.extract(waves)
    assert {value.device for value in found.values()} == {GPU}


def test_a_tensor_that_was_left_behind_and_a_value_that_is_read_are_noticed():
    x = on_gpu(torch.ones(3))
    with MODE, pytest.raises(RuntimeError, match=r"two different devices cuda:0, cpu"):
        x + torch.ones(3)
    with MODE, pytest.raises(DataDependentOutputException):
        bool((x > 0).all())
