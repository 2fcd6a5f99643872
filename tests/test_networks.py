"""Layer shapes and parameter counts of the published networks, and the frontends built from them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from asdray import frontends
from asdray.config.system import Autoencoder, Discriminative, FftBranch, StftBranch
from asdray.frontends.discriminative import Branch, ClipBatch, class_labels
from asdray.frontends.networks import ResidualBlock, SqueezeExcite, StftNetwork

COLUMNS = {
    "machine": ["fan", "fan", "fan", "pump"],
    "section": [0, 0, 0, 1],
    "attributes": ["a", "b", "b", ""],
    "domain": ["source", "source", "target", None],
}


def _count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("seconds", "count"), [(10, 1_529_856), (11, 1_546_240), (12, 1_562_624), (18, 1_660_928)]
)
def test_fft_branch_parameters(seconds, count):
    assert _count(Branch(FftBranch(), seconds * 16000)) == count


@pytest.mark.parametrize("seconds", [10, 11, 12, 18])
def test_stft_branch_parameters(seconds):
    assert _count(Branch(StftBranch(), seconds * 16000)) == 965_712


@pytest.mark.parametrize(("n_fft", "hop", "count"), [(256, 128, 769_104), (4096, 2048, 1_735_760)])
def test_stft_branches_of_other_resolutions(n_fft, hop, count):
    assert _count(Branch(StftBranch(n_fft=n_fft, hop_length=hop), 160_000)) == count


def test_stft_shapes_at_ten_seconds():
    network = StftNetwork(500, (16, 32, 64, 128), 128).eval()
    with torch.no_grad():
        x = torch.rand(1, 500, 313)
        x = network.stem[0](network.norm(x)[:, None])
        assert x.shape == (1, 16, 247, 154)
        x = network.stem[1:](x)
        assert x.shape == (1, 16, 123, 76)
        shapes = []
        for block in network.blocks:
            x = block(x)
            shapes.append(tuple(x.shape[1:]))
    assert shapes[1::2] == [(16, 123, 76), (32, 62, 38), (64, 31, 19), (128, 16, 10)]
    assert shapes[::2] == shapes[1::2]


def test_no_bias_and_no_affine_batch_norm_in_the_discriminative_branches():
    for branch in (FftBranch(), StftBranch()):
        names = [name for name, _ in Branch(branch, 160_000).named_parameters()]
        assert names
        assert all(name.endswith("weight") for name in names)
        assert not any(
            m.affine
            for m in Branch(branch, 160_000).modules()
            if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)
        )


def test_squeeze_excite_equals_its_formula():
    torch.manual_seed(0)
    module = SqueezeExcite(32)
    x = torch.randn(2, 32, 5, 7)
    gate = torch.sigmoid(torch.relu(x.mean((2, 3)) @ module.reduce.weight.T) @ module.expand.weight.T)
    torch.testing.assert_close(module(x), x * gate[:, :, None, None])
    assert module.reduce.weight.shape == (2, 32)
    assert SqueezeExcite(8).reduce.weight.shape == (1, 8)


def test_residual_block_adds_its_normalised_input():
    block = ResidualBlock(16, 16, 1)
    torch.nn.init.zeros_(block.branch[4].weight)  # the second convolution
    x = torch.randn(4, 16, 9, 9) * 3 + 1
    torch.testing.assert_close(block(x), block.norm(x))


def test_autoencoder_parameters():
    network = frontends.build(Autoencoder(), 160_000).network
    assert _count(network) == 267_928
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    assert [(m.momentum, m.eps, m.affine) for m in norms] == [(0.01, 1e-3, True)] * 9


SMALL = Discriminative(
    branches=(
        FftBranch(channels=8, kernels=(64, 32, 8), strides=(32, 16, 2), hidden=0, embedding_dim=4),
        StftBranch(n_fft=512, hop_length=256, channels=(4, 8), embedding_dim=6),
    )
)


def test_small_variants_take_two_second_clips():
    for config, dim in ((SMALL, 10), (Autoencoder(n_mels=16, hidden=(8,), bottleneck=3), 3)):
        config.check(32_000)
        module = frontends.build(config, 32_000, columns=COLUMNS).eval()
        with torch.inference_mode():
            found = module.extract(torch.rand(3, 32_000) - 0.5)
        assert found["embedding"].shape == (3, dim)
        assert set(found) - {"embedding"} == set(config.own_scores)
        assert all(v.dtype == torch.float32 and v.isfinite().all() for v in found.values())


def test_reconstruction_error_is_the_mean_over_the_clips_own_vectors():
    config = Autoencoder(n_mels=16, hidden=(8, 6), bottleneck=3, n_frames=3)
    module = frontends.build(config, 8000).eval()
    waves = torch.rand(2, 8000) - 0.5
    with torch.no_grad():
        found = module.extract(waves)
        for i in range(2):
            frames = module.frames(waves[i : i + 1])[0]
            vectors = torch.stack([frames[t : t + 3].flatten() for t in range(len(frames) - 2)])
            output, code = module.network(vectors)
            torch.testing.assert_close(found["recon"][i], ((output - vectors) ** 2).mean())
            torch.testing.assert_close(found["embedding"][i], code.mean(0))


def test_weights_come_from_the_seed_alone():
    def weights(seed: int) -> dict:
        return frontends.build(SMALL, 32_000, columns=COLUMNS, seed=seed).state_dict()

    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = weights(1)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(6)
    again, other = weights(1), weights(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.centres"], other["head.centres"])


def test_a_saved_frontend_is_built_again_without_the_training_clips():
    module = frontends.build(SMALL, 32_000, columns=COLUMNS, seed=3)
    again = frontends.build(SMALL, 32_000, saved=module.saved())
    again.load_state_dict(module.state_dict())
    waves = torch.rand(2, 32_000)
    torch.testing.assert_close(again.eval()(waves), module.eval()(waves))


def test_class_labels():
    assert class_labels(("machine", "section", "attributes", "domain"), COLUMNS) == [
        "fan---0---a---0",
        "fan---0---b---0",
        "fan---0---b---1",
        "pump---1------0",
    ]
    assert class_labels(("section", "machine"), COLUMNS) == ["fan---0"] * 3 + ["pump---1"]
    module = frontends.build(SMALL, 32_000, columns=COLUMNS)
    assert module.classes == tuple(sorted(class_labels(SMALL.classes, COLUMNS)))


def test_classes_without_a_training_clip():
    unheard = {
        "machine": ["fan", "fan"],
        "section": [0, 0],
        "attributes": ["b", "c"],
        "domain": ["source", "target"],
    }
    module = frontends.build(SMALL, 32_000, columns=COLUMNS, unheard=unheard)
    assert module.classes == (
        "fan---0---a---0",
        "fan---0---b---0",
        "fan---0---b---1",
        "fan---0---c---1",
        "pump---1------0",
    )
    assert module.head.centres.shape == (5, 10)


def test_frontend_modules_import_nothing_heavy():
    code = (
        "import sys, asdray.frontends.networks, asdray.frontends.losses, asdray.audio.batches\n"
        "heavy = ('pydantic', 'ray', 'lightning', 'soundfile', 'pandas', 'filelock')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]", "a speed test of the networks must run where these are missing"


def test_every_parameter_learns():
    torch.manual_seed(0)
    module = frontends.build(SMALL, 32_000, columns=COLUMNS)
    rng = np.random.default_rng(0)
    samples = torch.from_numpy(rng.integers(-3000, 3000, (4, 32_000)).astype(np.int16))
    module.loss(ClipBatch(samples, torch.arange(4), torch.arange(4), torch.ones(4))).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
