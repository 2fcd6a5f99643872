"""Encoders against outputs of the original code with made-up weights, which `golden/encoders` holds.

Tolerances are three times the rounding of the original in float32, or more.
"""

import functools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from encoders_made_up import aisfx_names, beats_names, eat_names, filled, waves
from golden.encoders.rules import noise, tensor

from asdray.frontends import encoders
from asdray.frontends.encoders import beats, eat
from asdray.frontends.encoders.convolution import LongConvolution

GOLDEN = {
    name: np.load(Path(__file__).parent / "golden/encoders" / f"{name}.npz")
    for name in ("beats", "eat", "aisfx")
}
BANDS = 8
DIMS = [0, 1, 2, 3]
"""Of the arrays ``dims4``."""


@pytest.fixture(scope="module")
def beats_network():
    network = filled(encoders.build("beats"), beats_names())
    assert len(beats_names()) == 250
    # The published 90,311,792 count weight norm's two parts.
    assert sum(p.numel() for p in network.parameters()) == 90_311_792 - 128
    return network


@pytest.fixture(scope="module")
def eat_network():
    return filled(encoders.build("eat"), eat_names())


@functools.cache
def tokens_of(network, seconds, seeds=(0,)):
    with torch.no_grad():
        return network(network.spectrum(waves(seconds, seeds)), [0, 1, 4, 12])


# ----------------------------------------------------------------------------------------------------- BEATs


def taken(found, what):
    """The part of a layer's tokens that a reference is about."""
    grid = found.grid[0].numpy()
    match what:
        case "mean" | "mean_fp64":
            return grid.mean((0, 1))
        case "first":
            return grid[0, 0]
        case "bands":
            return grid.mean(0)
        case "cls" | "cls_fp64":
            return found.cls[0].numpy()
    raise KeyError(what)


@pytest.mark.parametrize("seconds", ["1", "2", "6", "10.24"])
def test_beats_equals_the_original(beats_network, seconds):
    golden = GOLDEN["beats"]
    spectrum = beats_network.spectrum(waves(seconds))[0].numpy()
    parts = {"fbank": spectrum, "fbank55": spectrum[:5, :5], "fbank_last55": spectrum[-5:, -5:]}
    keys = [key for key in golden.files if key.startswith(f"c{seconds}_")]
    assert keys
    for key in keys:
        what = key.removeprefix(f"c{seconds}_")
        if what in parts:
            np.testing.assert_allclose(parts[what], golden[key], atol=1e-4, rtol=0, err_msg=key)
            continue
        layer, what = re.fullmatch(r"L(\d+)_(\w+)", what).groups()
        found = tokens_of(beats_network, seconds)[int(layer)]
        assert found.cls is None
        if what == "dims4":
            values = found.grid[0].flatten(0, 1)[:, DIMS].numpy()
        else:
            values = taken(found, what)
        tolerance = 3e-5 if what in ("mean", "mean_fp64", "bands") else 1e-4
        np.testing.assert_allclose(values, golden[key], atol=tolerance, rtol=0, err_msg=key)
    tokens_of.cache_clear()


def test_beats_in_batches_equals_clips_alone(beats_network):
    batch = tokens_of(beats_network, 2, (0, 1, 2))[12].grid
    assert batch.shape == (3, 12, BANDS, 768)
    np.testing.assert_allclose(
        batch[0].mean((0, 1)).numpy(), GOLDEN["beats"]["c2_L12_mean"], atol=3e-5, rtol=0
    )
    for seed in (1, 2):
        alone = tokens_of(beats_network, 2, (seed,))[12].grid[0]
        torch.testing.assert_close(batch[seed], alone, atol=2e-5, rtol=0)
    # The head of the fine-tuned files, whose input are our tokens.
    head, bias = (
        torch.from_numpy(tensor(f"predictor.{leaf}", shape))
        for leaf, shape in (("weight", (527, 768)), ("bias", (527,)))
    )
    found = (batch[0].mean((0, 1)) @ head.T + bias).sigmoid().numpy()
    np.testing.assert_allclose(found, GOLDEN["beats"]["finetuned_c2_probs"], atol=1e-5, rtol=0)
    tokens_of.cache_clear()


def test_every_reference_of_beats_is_compared():
    others = [key for key in GOLDEN["beats"].files if not re.match(r"c(1|2|6|10\.24)_", key)]
    assert sorted(others) == ["bucket_all", "finetuned_c2_probs"]


def test_buckets_of_relative_positions():
    found = beats.buckets(torch.arange(-1100, 1101))
    np.testing.assert_array_equal(found.numpy(), GOLDEN["beats"]["bucket_all"])


def test_layers_stop_early_and_gradients_change_nothing(beats_network):
    spectrum = beats_network.spectrum(waves(0.4))
    with torch.no_grad():
        every = beats_network(spectrum, range(13))
        blocks = []
        handles = [
            block.register_forward_hook(lambda *_, i=i: blocks.append(i))
            for i, block in enumerate(beats_network.encoder.layers, 1)
        ]
        few = beats_network(spectrum, [3, 1])
    for handle in handles:
        handle.remove()
    assert blocks == [1, 2, 3]
    assert sorted(few) == [1, 3]
    assert all(torch.equal(few[layer].grid, every[layer].grid) for layer in few)
    with_gradient = beats_network(spectrum, [2])[2].grid
    assert with_gradient.requires_grad
    torch.testing.assert_close(with_gradient.detach(), every[2].grid, atol=1e-5, rtol=0)


def test_bfloat16_is_close(beats_network, eat_network):
    for network in (beats_network, eat_network):
        with torch.no_grad():
            spectrum = network.spectrum(waves(0.5))
            exact = network(spectrum, [12])[12]
            with torch.autocast("cpu", dtype=torch.bfloat16):
                assert torch.equal(network.spectrum(waves(0.5)), spectrum)
                found = network(spectrum, [12])[12]
        assert found.grid.dtype == torch.float32
        means = (part.grid.mean((0, 1, 2)) for part in (found, exact))
        assert torch.cosine_similarity(*means, dim=0) > 0.999


# ------------------------------------------------------------------------------------------------------- EAT


MULTIPLE = {"6_608": 32, "10_1024": 32, "10_1008": 16, "2_224": 32}


def check_eat(network, prefix, seconds, layers):
    """Compares all references of a clip for layers, and returns how many there are."""
    golden = GOLDEN["eat"]
    seconds, frames = seconds.split("_")
    network.frame_multiple = MULTIPLE[f"{seconds}_{frames}"]
    with torch.no_grad():
        spectrum = network.spectrum(waves(seconds))
        assert spectrum.shape == (1, int(frames), 128)
        found = network(spectrum, layers)
    keys = [key for key in golden.files if key.startswith(f"{prefix}_c{seconds}_{frames}_")]
    n = 0
    for key in keys:
        layer, what = re.search(r"_L(\d+)_(\w+)$", key).groups()
        if int(layer) not in layers:
            continue
        tokens = found[int(layer)]
        if what == "dims4":
            values = torch.cat([tokens.cls, tokens.grid[0].flatten(0, 1)])[:, DIMS].numpy()
        else:
            values = taken(tokens, what)
        tolerance = 1e-4 if what in ("dims4", "bands") else 6e-5
        np.testing.assert_allclose(values, golden[key], atol=tolerance, rtol=0, err_msg=key)
        n += 1
    return n


@pytest.mark.parametrize(("seconds", "n"), [("6_608", 9), ("10_1024", 10), ("10_1008", 8)])
def test_eat_equals_the_original(eat_network, seconds, n):
    assert check_eat(eat_network, "base", seconds, [0, 1, 6, 12]) == n


def test_eat_in_batches(eat_network):
    eat_network.frame_multiple = 32
    with torch.no_grad():
        found = eat_network(eat_network.spectrum(waves(2, (0, 1, 2))), [12])[12]
    assert found.grid.shape == (3, 14, BANDS, 768)
    np.testing.assert_allclose(found.cls.numpy(), GOLDEN["eat"]["base_batch2_224_cls"], atol=6e-5, rtol=0)


def test_eat_large_up_to_its_first_block():
    """The whole network is compared in `test_eat_large_equals_the_original`: 309 M made-up weights take long."""
    network = encoders.build("eat_large")
    network.blocks = network.blocks[:1]
    filled(network, eat_names(1024, 1))
    assert check_eat(network, "large", "6_608", [0, 1]) == 4


@pytest.mark.chaos
def test_eat_large_equals_the_original():
    network = filled(encoders.build("eat_large"), eat_names(1024, 24))
    assert check_eat(network, "large", "6_608", [0, 1, 12, 24]) == 8


def test_spectra_of_eat(eat_network):
    golden = GOLDEN["eat"]
    eat_network.frame_multiple = 32
    np.testing.assert_allclose(
        eat_network.spectrum(waves(1))[0].numpy(), golden["fbank_c1"], atol=1e-4, rtol=0
    )
    six = eat_network.spectrum(waves(6))[0].numpy()
    np.testing.assert_allclose(six[:5, :5], golden["fbank_c6_608_first55"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(six[593:598, -5:], golden["fbank_c6_608_last_real55"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(np.unique(six[598:]), golden["fbank_c6_608_padding"], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("name", "width"), [("base", 768), ("large", 1024)])
def test_positions_of_eat(name, width):
    dims = [0, 1, 100, width // 4, width // 2 - 1, width // 2, width - 1]
    found = eat.positions(768, width)[[0, 1, 7, 8, 9, 503, 6143]][:, dims]
    np.testing.assert_allclose(found.numpy(), GOLDEN["eat"][f"{name}_pos"], atol=1e-5, rtol=0)


def test_every_reference_of_eat_is_compared():
    others = [key for key in GOLDEN["eat"].files if not re.match(r"base_c|large_c6_608_", key)]
    assert sorted(others) == [
        "base_batch2_224_cls", "base_pos", "fbank_c1", "fbank_c6_608_first55", "fbank_c6_608_last_real55",
        "fbank_c6_608_padding", "large_pos",
    ]  # fmt: skip


def test_frames_of_eat_are_multiples_of_a_patch():
    with pytest.raises(ValueError, match="multiple of 16, not 40"):
        encoders.build("eat", frame_multiple=40)


# ----------------------------------------------------------------------------------------------------- aiSFX


def test_aisfx_equals_the_package_with_essentia():
    """Spectra by Essentia 2.1b6 and vectors by the network of the package aisfx 0.1.2."""
    network = filled(encoders.build("aisfx"), aisfx_names())
    golden = GOLDEN["aisfx"]
    for key in golden.files:
        seconds, seed, what = re.fullmatch(r"c([\d.]+)_(\d)_(\w+)", key).groups()
        spectrum = network.spectrum(waves(seconds, (int(seed),)))
        if what == "spectrum":
            found = spectrum[0]
        elif what == "ends":
            found = torch.cat([spectrum[0, :2], spectrum[0, -2:]])
        else:
            with torch.no_grad():
                tokens = network(spectrum, [1])[1]
            assert tokens.grid.shape[2:] == (1, 512)
            assert tokens.cls is None
            found = tokens.grid[0, :, 0]
        np.testing.assert_allclose(found.numpy(), golden[key], atol=1e-4, rtol=0, err_msg=key)
    with torch.no_grad():
        batch = network(network.spectrum(waves(2.5, (1, 2))), [1])[1].grid
    np.testing.assert_allclose(batch[1, :, 0].numpy(), golden["c2.5_2_vectors"], atol=1e-4, rtol=0)


# --------------------------------------------------------------------------------------------- bad questions


@pytest.mark.parametrize(
    ("name", "layers", "message"),
    [
        ("beats", [13], "the encoder 'beats' has no layer 13: layers are 1 to 12"),
        ("eat", [-1], "the encoder 'eat' has no layer -1"),
        ("eat_large", [1, 25], "has no layer 25: layers are 1 to 24"),
        ("aisfx", [0], "the encoder 'aisfx' has no layer 0: layers are 1 to 1"),
        ("beats", [], "no layer of the encoder 'beats' is asked for"),
    ],
)
def test_a_layer_that_does_not_exist(name, layers, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        encoders.build(name)(torch.zeros(1, 128, 128), layers)


@pytest.mark.parametrize(("name", "n"), [("beats", 2800), ("eat", 400), ("eat_large", 400), ("aisfx", 18205)])
def test_the_shortest_clip_gives_a_token_and_a_shorter_one_is_refused(name, n):
    network = encoders.build(name)
    assert network.shortest == n
    assert network.spectrum(torch.zeros(1, n)).shape[0] == 1
    with pytest.raises(ValueError, match=f"clips of .* s are too short for the encoder '{name}'"):
        network.spectrum(torch.zeros(1, n - 1))


def test_an_unknown_encoder():
    with pytest.raises(ValueError, match="no encoder is called 'beatz'"):
        encoders.build("beatz")


@pytest.mark.parametrize(
    ("n_clips", "n_tokens", "kernel"), [(1, 1, 128), (2, 129, 128), (3, 130, 128), (2, 300, 64)]
)
def test_a_long_convolution_equals_sums(n_clips, n_tokens, kernel):
    convolution = LongConvolution(24, kernel, groups=3)
    x = torch.from_numpy(noise("tokens", (n_clips, n_tokens, 24))).float().requires_grad_()

    def sums():
        padded = torch.nn.functional.pad(x.transpose(1, 2), (kernel // 2, kernel // 2 - 1))
        return torch.nn.functional.conv1d(padded, convolution.weight, convolution.bias, groups=3).transpose(
            1, 2
        )

    with torch.inference_mode():  # what is kept from here must not stand in training's way
        torch.testing.assert_close(convolution(x), sums(), atol=1e-5, rtol=0)
    torch.testing.assert_close(convolution(x), sums(), atol=1e-5, rtol=0)
    values = x, convolution.weight, convolution.bias
    found, expected = (torch.autograd.grad(y.square().sum(), values) for y in (convolution(x), sums()))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-4)
    with torch.no_grad():  # changed weights are seen
        convolution.weight.mul_(2)
        torch.testing.assert_close(convolution(x), sums(), atol=1e-5, rtol=0)
        convolution.weight = torch.nn.Parameter(convolution.weight / 3)
        torch.testing.assert_close(convolution(x), sums(), atol=1e-5, rtol=0)
