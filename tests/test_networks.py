"""Layer shapes and parameter counts of the published networks, and the frontends built from them."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from asdray import frontends
from asdray.audio import features
from asdray.audio.batches import Clips
from asdray.config.frontend import Autoencoder, Discriminative, FftBranch, SpecAugment, StftBranch
from asdray.config.losses import AdaCos, ArcFace, ClassHead, FeatEx, Projector, SubspaceLoss, SupCon
from asdray.config.system import load_recipe
from asdray.frontends.augment import mask, mix
from asdray.frontends.discriminative import Branch, class_labels
from asdray.frontends.heads import exchanged
from asdray.frontends.networks import FftNetwork, ResidualBlock, SqueezeExcite, StftNetwork

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


@pytest.mark.parametrize(
    ("n_fft", "count", "bins", "rows"), [(256, 769_104, 125, 4), (4096, 1_735_760, 1997, 63)]
)
@pytest.mark.parametrize("seconds", [10, 11, 12, 18])
def test_stft_branches_of_other_resolutions(n_fft, count, bins, rows, seconds):
    config = StftBranch(n_fft=n_fft, hop_length=n_fft // 2)
    assert config.input_shape(seconds * 16000) == (bins, seconds * 16000 // (n_fft // 2) + 1)
    branch = Branch(config, seconds * 16000)
    assert _count(branch) == count
    assert branch.network.head[2].in_features == 128 * rows


SHAPES = {
    10: (313, (247, 154), (123, 76), (62, 38), (31, 19), (16, 10)),
    11: (344, (247, 169), (123, 84), (62, 42), (31, 21), (16, 11)),
    12: (376, (247, 185), (123, 92), (62, 46), (31, 23), (16, 12)),
    18: (563, (247, 279), (123, 139), (62, 70), (31, 35), (16, 18)),
}


@pytest.mark.parametrize("seconds", SHAPES)
def test_stft_shapes(seconds):
    """On the meta device, which computes shapes only: the test is about layers, not numbers."""
    frames, convolved, pooled, *halved = SHAPES[seconds]
    assert StftBranch().input_shape(seconds * 16000) == (500, frames)
    network = StftNetwork(500, (16, 32, 64, 128), 128).to("meta").eval()
    x = network.stem[0](network.norm(torch.empty(1, 500, frames, device="meta"))[:, None])
    assert x.shape == (1, 16, *convolved)
    x = network.stem[1:](x)
    assert x.shape == (1, 16, *pooled)
    shapes = []
    for block in network.blocks:
        x = block(x)
        shapes.append(tuple(x.shape[1:]))
    expected = [(16, *pooled), (32, *halved[0]), (64, *halved[1]), (128, *halved[2])]
    assert shapes[1::2] == shapes[::2] == expected
    assert network.head(x.amax(dim=-1)).shape == (1, 128)


@pytest.mark.parametrize(
    ("seconds", "lengths"),
    [
        (10, [80001, 1247, 37, 6]),
        (11, [88001, 1372, 41, 7]),
        (12, [96001, 1497, 45, 8]),
        (18, [144001, 2247, 69, 14]),
    ],
)
def test_fft_shapes(seconds, lengths):
    assert FftBranch().lengths(seconds * 16000) == lengths
    network = Branch(FftBranch(), seconds * 16000).network.to("meta").eval()
    x = torch.empty(1, 1, lengths[0], device="meta")
    found = []
    for layer in network.layers:
        x = layer(x)
        if isinstance(layer, torch.nn.Conv1d):
            found.append(x.shape[-1])
        if isinstance(layer, torch.nn.Flatten):
            assert x.shape == (1, 128 * lengths[-1])
    assert found == lengths[1:]
    assert x.shape == (1, 128)


@pytest.mark.parametrize(
    ("recipe", "seconds", "count"),
    [("dis_baseline", 10, 1_529_856 + 965_712), ("dis_multispec_scac_trainable", 10, 5_000_432)],
)
def test_recipes_have_the_published_networks(recipe, seconds, count):
    config = load_recipe(recipe).frontend
    branches = [Branch(branch, seconds * 16000) for branch in config.branches]
    assert sum(map(_count, branches)) == count
    assert isinstance(branches[0].network, FftNetwork), "the spectrum comes first"


def test_temporal_norm_subtracts_the_mean_over_time():
    torch.manual_seed(0)
    config = StftBranch(n_fft=256, hop_length=64, channels=(4,), embedding_dim=3)
    plain = Branch(config, 8000).eval()
    normed = Branch(config.model_copy(update={"temporal_norm": True}), 8000).eval()
    normed.load_state_dict(plain.state_dict())
    waves = torch.rand(2, 8000) - 0.5
    bins = features.spectrogram(waves, features.hann(256), 64, normed.first, normed.last)
    with torch.no_grad():
        expected = plain.network(bins - bins.mean(2, keepdim=True))
        torch.testing.assert_close(normed(waves), expected)
        assert not torch.allclose(plain(waves), expected)


def test_gap_averages_the_rows():
    network = StftNetwork(125, (16, 32, 64, 128), 128, "gap").eval()
    assert _count(network.head) == 128 * 128
    assert _count(network) == 769_104 - 4 * 128 * 128 + 128 * 128
    x = torch.rand(2, 125, 60)
    with torch.no_grad():
        last = network.blocks(network.stem(network.norm(x)[:, None])).amax(-1)
        torch.testing.assert_close(network(x), last.mean(2) @ network.head[0].weight.T)


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


def _normed(x: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(x, None, None, training=True, eps=1e-5)


def _excited(x: torch.Tensor, weights) -> torch.Tensor:
    gate = F.linear(F.relu(F.linear(x.flatten(2).mean(2), next(weights))), next(weights)).sigmoid()
    return torch.einsum("bc...,bc->bc...", x, gate)


def _residual(x: torch.Tensor, weights, stride: int) -> torch.Tensor:
    x = _normed(x)
    out = F.conv2d(F.relu(x), next(weights), stride=stride, padding=1)
    out = F.conv2d(F.relu(_normed(out)), next(weights), padding=1)
    out = _excited(out, weights)
    if stride == 2:
        x = F.conv2d(F.max_pool2d(x, 3, 2, padding=1), next(weights))
    return x + out


def _compare(network: torch.nn.Module, x: torch.Tensor, formula, n_norms: int) -> None:
    """Compares a module with its formula in training mode, with batch statistics; weights in their order."""
    network.double().train()
    weights = iter([weight for _, weight in network.named_parameters()])
    with torch.no_grad():
        expected = formula(x, weights)
        assert next(weights, None) is None, "a weight that the formula does not know"
        assert expected.std() > 1e-3, "differences would not show"
        torch.testing.assert_close(network(x), expected, rtol=1e-9, atol=1e-9)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    found = [(m.eps, m.momentum, m.track_running_stats) for m in norms]
    assert found == [(1e-5, 0.1, True)] * n_norms


def test_fft_network_equals_its_formula():
    def formula(x: torch.Tensor, weights) -> torch.Tensor:
        x = x[:, None]
        for stride in (64, 32, 4):
            x = _excited(F.relu(F.conv1d(x, next(weights), stride=stride)), weights)
        x = x.flatten(1)
        for _ in range(5):
            x = F.relu(_normed(F.linear(x, next(weights))))
        return F.linear(x, next(weights))

    torch.manual_seed(0)
    network = FftNetwork(40_001, 128, (256, 64, 16), (64, 32, 4), 4, 128)
    _compare(network, torch.rand(6, 40_001, dtype=torch.float64), formula, n_norms=5)


def test_stft_network_equals_its_formula():
    def formula(x: torch.Tensor, weights) -> torch.Tensor:
        x = _normed(x)[:, None]
        x = F.max_pool2d(F.relu(_normed(F.conv2d(x, next(weights), stride=2))), 3, 2)
        for stride in (1, 1, 2, 1, 2, 1, 2, 1):
            x = _residual(x, weights, stride)
        x = x.max(dim=3).values.flatten(1)
        return F.linear(_normed(x), next(weights))

    torch.manual_seed(0)
    network = StftNetwork(125, (16, 32, 64, 128), 128)
    _compare(network, torch.rand(4, 125, 60, dtype=torch.float64), formula, n_norms=19)


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
    test_classes = {
        "machine": ["fan", "fan"],
        "section": [0, 0],
        "attributes": ["b", "c"],
        "domain": ["source", "target"],
    }
    module = frontends.build(SMALL, 32_000, columns=COLUMNS, test_classes=test_classes)
    assert module.classes == (
        "fan---0---a---0",
        "fan---0---b---0",
        "fan---0---b---1",
        "fan---0---c---1",
        "pump---1------0",
    )
    assert module.head.centres.shape == (5, 10)


def test_classes_without_a_training_clip_do_not_count_as_enough_classes():
    config = SMALL.model_copy(update={"classes": ("machine", "attributes")})
    columns = {**COLUMNS, "machine": ["fan"] * 4, "attributes": ["noAttribute"] * 4}
    test_classes = {**columns, "attributes": ["a", "b", "c", "noAttribute"]}
    for given in (None, test_classes):
        with pytest.raises(ValueError, match="the training clips make 1 class of sound"):
            frontends.build(config, 32_000, columns=columns, test_classes=given)


def test_frontend_modules_import_nothing_heavy():
    code = (
        "import sys, asdray.frontends.networks, asdray.frontends.losses, asdray.audio.batches\n"
        "heavy = ('pydantic', 'ray', 'lightning', 'soundfile', 'pandas', 'filelock')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]", "a speed test of the networks must run where these are missing"


FULL = SMALL.model_copy(
    update={
        "spec_augment": SpecAugment(probability=1.0),
        "heads": (SubspaceLoss(weight=0.5), FeatEx(weight=2.0, probability=0.7, loss=AdaCos(trainable=True))),
    }
)


DOMAINS = ClassHead(classes=("domain",), loss=ArcFace(margin_on="own"), weight=0.3)
CONTRAST = ClassHead(loss=SupCon(temperature=0.2), weight=0.7)
SEVERAL = SMALL.model_copy(
    update={"heads": (CONTRAST, SubspaceLoss(), DOMAINS), "projector": Projector(dim=4)}
)


def _batches(config, n_clips: int = 6):
    rng = np.random.default_rng(0)
    samples = rng.integers(-3000, 3000, (n_clips * 33_000, 1)).astype(np.int16)
    pack = SimpleNamespace(
        clips=[str(i) for i in range(n_clips)], samples=samples, offsets=np.arange(n_clips + 1) * 33_000
    )
    columns = {name: (values * 2)[:n_clips] for name, values in COLUMNS.items()}
    module = frontends.build(config, 32_000, columns=columns, seed=4)
    return module, module.training_data(Clips([pack]), columns, n_clips, rng)


@pytest.mark.parametrize("config", [SMALL, FULL, SEVERAL], ids=["plain", "full", "several heads"])
def test_every_parameter_learns(config):
    module, data = _batches(config)
    (batch,) = data.epoch(np.random.default_rng(0))
    module.loss(batch).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_the_loss_is_the_sum_of_main_loss_and_heads_on_augmented_clips():
    module, data = _batches(FULL)
    module.eval()  # batch statistics would depend on how often a batch went through
    (batch,) = data.epoch(np.random.default_rng(3))
    assert (batch.share < 1).any()
    assert batch.exchange.swapped.any()
    with torch.no_grad():
        waves = mask(mix(batch.samples / 32768, batch.partner, batch.share), batch.masks)
        targets = mix(torch.eye(4)[batch.classes], batch.partner, batch.share)
        parts = [branch(waves) for branch in module.branches]
        subspace, featex = module.more_heads
        expected = (
            module.head(torch.cat(parts, 1), targets)
            + 0.5 * sum(loss(part, targets) for loss, part in zip(subspace.losses, parts, strict=True))
            + 2.0 * featex.loss(*exchanged(parts, targets, batch.exchange))
        )
        torch.testing.assert_close(module.loss(batch), expected)


def test_heads_have_classes_of_their_own():
    module, data = _batches(SEVERAL)
    assert module.head_classes == (("0", "1"),)
    assert module.saved() == {"classes": list(module.classes), "head_classes": [["0", "1"]]}
    again = frontends.build(SEVERAL, 32_000, saved=module.saved())
    again.load_state_dict(module.state_dict())
    module.eval()
    (batch,) = data.epoch(np.random.default_rng(3))
    target = [int(COLUMNS["domain"][i % 4] == "target") for i in range(6)]
    order = np.random.default_rng(3).permutation(6)
    assert batch.head_classes.tolist() == [[target[i]] for i in order]
    with torch.no_grad():
        own, own_domain = torch.eye(4)[batch.classes], torch.eye(2)[batch.head_classes[:, 0]]
        targets, domains = (mix(y, batch.partner, batch.share) for y in (own, own_domain))
        waves = mix(batch.samples / 32768, batch.partner, batch.share)
        parts = module.parts(waves)
        seen = module.projector(torch.cat(parts, 1))
        contrast, subspace, domain = module.more_heads
        assert domain.loss.centres.shape == (2, 10)
        expected = (
            module.head(seen, targets)
            + 0.7 * contrast.loss(seen, targets, own)
            + sum(loss(part, targets) for loss, part in zip(subspace.losses, parts, strict=True))
            + 0.3 * domain.loss(seen, domains, own_domain)
        )
        torch.testing.assert_close(module.loss(batch), expected)
        again.eval()
        for scored in (again(waves), again.extract(waves)["embedding"]):
            torch.testing.assert_close(scored, seen, msg="backends score the vector that losses see")
        module.config = SEVERAL.model_copy(update={"projector": Projector(dim=4, embedding="before")})
        for scored in (module(waves), module.extract(waves)["embedding"]):
            torch.testing.assert_close(scored, torch.cat(parts, 1))


def test_a_head_whose_training_clips_make_one_class_is_refused():
    columns = {**COLUMNS, "domain": ["source"] * 4}
    for test_classes in (None, COLUMNS):
        with pytest.raises(ValueError, match=r"frontend\.heads, classes \['domain'\]: .* make 1 class"):
            frontends.build(SEVERAL, 32_000, columns=columns, test_classes=test_classes)


def test_labels_asdkit_read_the_classes_of_heads():
    options = {"classes": ("machine",), "heads": (DOMAINS, CONTRAST)}
    assert Discriminative(**options).test_classes == ()
    assert Discriminative(labels="asdkit", **options).test_classes == ("machine", "domain")
    head = ClassHead(classes=("domain", "machine"))
    assert head == ClassHead(classes=("machine", "domain"))
    assert Discriminative(heads=(DOMAINS,)).loss_kind == "adacos + classes (arcface)"


def test_mixup_of_spectrograms():
    config = FULL.model_copy(update={"mixup_of": "spectrogram", "mixup_alpha": 0.5, "heads": ()})
    module, data = _batches(config)
    module.eval()
    (batch,) = data.epoch(np.random.default_rng(3))
    assert (batch.share < 1).any()
    with torch.no_grad():
        waves = mask(batch.samples / 32768, batch.masks)
        parts = []
        for branch in module.branches:
            view = branch.view(waves)
            share = batch.share.view(-1, *[1] * (view.ndim - 1))
            parts.append(branch.network(share * view + (1 - share) * view[batch.partner]))
        targets = mix(torch.eye(4)[batch.classes], batch.partner, batch.share)
        torch.testing.assert_close(module.loss(batch), module.head(torch.cat(parts, 1), targets))


def test_augmentation_comes_from_the_epochs_generator_alone():
    _, data = _batches(FULL)
    first, again, other = (next(iter(data.epoch(np.random.default_rng(seed)))) for seed in (0, 0, 1))
    assert torch.equal(first.masks, again.masks)
    assert torch.equal(first.exchange.source, again.exchange.source)
    assert not torch.equal(first.masks, other.masks)
    # An option that is off draws nothing: the rest of the epoch is unchanged.
    plain = next(iter(_batches(SMALL)[1].epoch(np.random.default_rng(0))))
    assert plain.masks is plain.exchange is None
    assert torch.equal(plain.samples, first.samples)


def test_heads_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="featex exchanges the outputs of branches"):
        Discriminative(branches=(FftBranch(),), heads=(FeatEx(),))
    with pytest.raises(ValueError, match="heads names 'featex' twice"):
        Discriminative(heads=(FeatEx(), FeatEx(weight=2)))
    with pytest.raises(ValueError, match="heads names ClassHead.* twice"):
        Discriminative(heads=(DOMAINS, CONTRAST, DOMAINS))
