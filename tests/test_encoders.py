"""Encoders against outputs of the original code with made-up weights, which `golden/encoders` holds.

Tolerances are three times the rounding of the original in float32, or more.
"""

import functools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.encoders.rules import clip, tensor

from asdray.frontends import encoders
from asdray.frontends.encoders import beats, eat, weights

GOLDEN = {
    name: np.load(Path(__file__).parent / "golden/encoders" / f"{name}.npz")
    for name in ("beats", "eat", "aisfx")
}
BANDS = 8
DIMS = [0, 1, 2, 3]
"""Of the arrays ``dims4``."""


def waves(seconds, seeds=(0,)):
    return torch.from_numpy(np.stack([clip(float(seconds), seed) for seed in seeds]))


def beats_names(n_layers=12):
    """Published name -> shape."""
    width = 768
    vectors = ("self_attn_layer_norm", "final_layer_norm")
    shapes = {
        "post_extract_proj.weight": (width, 512), "post_extract_proj.bias": (width,),
        "patch_embedding.weight": (512, 1, 16, 16), "layer_norm.weight": (512,), "layer_norm.bias": (512,),
        "encoder.pos_conv.0.bias": (width,), "encoder.pos_conv.0.weight_g": (1, 1, 128),
        "encoder.pos_conv.0.weight_v": (width, 48, 128),
        "encoder.layer_norm.weight": (width,), "encoder.layer_norm.bias": (width,),
    }  # fmt: skip
    for layer in range(n_layers):
        block = {
            "self_attn.grep_a": (1, 12, 1, 1), "self_attn.relative_attention_bias.weight": (320, 12),
            "self_attn.grep_linear.weight": (8, 64), "self_attn.grep_linear.bias": (8,),
            "fc1.weight": (3072, width), "fc1.bias": (3072,), "fc2.weight": (width, 3072), "fc2.bias": (width,),
            **{f"self_attn.{part}_proj.weight": (width, width) for part in "qkv"},
            **{f"self_attn.{part}_proj.bias": (width,) for part in "qkv"},
            "self_attn.out_proj.weight": (width, width), "self_attn.out_proj.bias": (width,),
            **{f"{part}.{leaf}": (width,) for part in vectors for leaf in ("weight", "bias")},
        }  # fmt: skip
        shapes |= {f"encoder.layers.{layer}.{name}": shape for name, shape in block.items()}
    return shapes


def eat_names(width=768, n_layers=12):
    """Hugging Face's name -> shape, without positions."""
    shapes = {
        "extra_tokens": (1, 1, width), "local_encoder.proj.weight": (width, 1, 16, 16),
        "local_encoder.proj.bias": (width,), "pre_norm.weight": (width,), "pre_norm.bias": (width,),
    }  # fmt: skip
    for layer in range(n_layers):
        block = {
            "attn.qkv.weight": (3 * width, width), "attn.qkv.bias": (3 * width,),
            "attn.proj.weight": (width, width), "attn.proj.bias": (width,),
            "mlp.fc1.weight": (4 * width, width), "mlp.fc1.bias": (4 * width,),
            "mlp.fc2.weight": (width, 4 * width), "mlp.fc2.bias": (width,),
            **{f"norm{i}.{leaf}": (width,) for i in (1, 2) for leaf in ("weight", "bias")},
        }  # fmt: skip
        shapes |= {f"blocks.{layer}.{name}": shape for name, shape in block.items()}
    return {f"model.{name}": shape for name, shape in shapes.items()}


def aisfx_names():
    channels, shapes = (1, 64, 128, 256, 512), {}
    for block in range(1, 5):
        inputs, outputs = channels[block - 1 : block + 1]
        for i, size in ((1, inputs), (2, outputs)):
            name = f"embedding_net.conv_block{block}"
            shapes[f"{name}.conv{i}.weight"] = (outputs, size, 3, 3)
            for leaf in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{name}.bn{i}.{leaf}"] = (outputs,)
            shapes[f"{name}.bn{i}.num_batches_tracked"] = ()
    return shapes


def by_rule(shapes):
    """The made-up tensors of published names; BEATs' copies of the relative bias are those of layer 0."""
    made = {}
    for name, shape in shapes.items():
        source = re.sub(r"layers\.\d+(\.self_attn\.relative)", r"layers.0\1", name)
        made[name] = made[source] if source in made else torch.from_numpy(np.asarray(tensor(source, shape)))
    return made


def filled(network, shapes):
    weights.fit(network, by_rule(shapes), Path("made-up"))
    return network


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


# ----------------------------------------------------------------------------------------------------- files


def sparse(shapes):
    """Tensors of all names and shapes that take four bytes each in a file."""
    return {
        name: torch.zeros(1).expand(shape) if shape else torch.tensor(0) for name, shape in shapes.items()
    }


FAIRSEQ = {
    "modality_encoders.IMAGE.context_encoder.norm.": "model.pre_norm.",
    "modality_encoders.IMAGE.local_encoder.": "model.local_encoder.",
    "modality_encoders.IMAGE.extra_tokens": "model.extra_tokens",
}


def fairseq_names():
    names = {}
    for name, shape in eat_names().items():
        for theirs, ours in FAIRSEQ.items():
            if name.startswith(ours):
                name = theirs + name.removeprefix(ours)
        names[name.removeprefix("model.blocks") if False else re.sub(r"^model\.blocks", "blocks", name)] = (
            shape
        )
    return names


SHAPES = {
    "beats": beats_names(),
    "eat": eat_names(),
    "eat_large": eat_names(1024, 24),
    "aisfx": aisfx_names(),
}
EXTRA = {
    "beats": {"predictor.weight": (527, 768), "predictor.bias": (527,)},
    "eat": {
        "model.fixed_positional_encoder.positions": (1, 6144, 768),
        "model.fc_norm.weight": (768,), "model.head.weight": (527, 768), "model.head.bias": (527,),
    },
    "eat_large": {},
    "aisfx": {"fc.0.0.weight": (256, 512), "fc.0.0.bias": (256,)},
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_published_files_load_and_heads_are_left_out(name, tmp_path):
    state = sparse(SHAPES[name] | EXTRA[name])
    torch.save({"cfg": {"deep_norm": True}, "model": state}, tmp_path / "weights.pt")
    network = encoders.load(name, tmp_path / "weights.pt")
    assert not any(value.is_meta for value in network.state_dict().values())
    assert not network.training


def test_the_last_copy_of_beats_relative_bias_counts():
    state = sparse(beats_names())
    state["encoder.layers.11.self_attn.relative_attention_bias.weight"] = torch.full((320, 12), 7.0)
    network = encoders.build("beats")
    weights.fit(network, state, Path("x"))
    assert network.encoder.relative_bias(3).unique().item() == 7


class Modality:
    """Stands for a class of fairseq's configurations."""


def test_files_of_fairseq_load_without_fairseq(tmp_path):
    state = sparse(fairseq_names()) | sparse({
        "modality_encoders.IMAGE.fixed_positional_encoder.positions": (1, 512, 768),
        "modality_encoders.IMAGE.decoder.proj.weight": (768, 768),
    })  # fmt: skip
    state["modality_encoders.IMAGE.extra_tokens"] = torch.full((1, 1, 768), 3.0)
    state["_ema"] = {"blocks.0.norm1.weight": torch.zeros(768)}
    Modality.__module__, Modality.__qualname__ = "test_encoders", "Modality"
    content = {"cfg": {"kind": Modality(), Modality(): np.float64(1.5), "path": Path("/x")}, "model": state}
    import sys

    sys.modules["test_encoders"] = sys.modules[__name__]
    torch.save(content, tmp_path / "eat.pt")
    del sys.modules["test_encoders"]
    network = encoders.load("eat", tmp_path / "eat.pt")
    assert "test_encoders" not in sys.modules
    assert network.extra_tokens.unique().item() == 3
    # The same below `model.`, as in fine-tuned files.
    tuned = {f"model.{name}": value for name, value in state.items() if isinstance(value, torch.Tensor)}
    torch.save(
        {"model": tuned | sparse({"head.weight": (527, 768), "fc_norm.bias": (768,)})}, tmp_path / "tuned.pt"
    )
    assert encoders.load("eat", tmp_path / "tuned.pt").extra_tokens.unique().item() == 3


class Shell:
    def __reduce__(self):
        import os

        return os.system, ("touch ran",)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_code_of_a_file_runs(zipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {}, "cfg": Shell()}, "bad.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"bad.pt asks for \w+.system, which no weight file needs"):
        weights.read(Path("bad.pt"))
    assert not Path("ran").exists()


def safetensors(path, shapes, *, offset=0):
    """Writes a file whose values are a hole of zeros."""
    header, position = {"__metadata__": {"format": "pt"}}, offset
    for name, shape in shapes.items():
        size = int(np.prod(shape)) * 4
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with path.open("r+b") as file:
        file.truncate(8 + len(text) + position)


def test_safetensors(tmp_path):
    safetensors(tmp_path / "eat.safetensors", eat_names() | EXTRA["eat"])
    assert encoders.load("eat", tmp_path / "eat.safetensors").blocks[11].norm1.weight.sum() == 0
    values = np.array([1.5, -2, 3], "<f4")
    header = json.dumps({
        "a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]},
        "b": {"dtype": "I64", "shape": [], "data_offsets": [12, 20]},
        "c": {"dtype": "F32", "shape": [0, 2], "data_offsets": [20, 20]},
    }).encode()  # fmt: skip
    content = len(header).to_bytes(8, "little") + header + values.tobytes() + (5).to_bytes(8, "little")
    (tmp_path / "small.safetensors").write_bytes(content)
    found = weights.read(tmp_path / "small.safetensors")
    assert found["a"].tolist() == values.tolist()
    assert found["b"].item() == 5
    assert found["c"].shape == (0, 2)
    for cut in (1, 8, 12, 30):
        (tmp_path / "small.safetensors").write_bytes(content[:-cut])
        with pytest.raises(ValueError, match=r"small.safetensors is truncated or no safetensors file"):
            weights.read(tmp_path / "small.safetensors")


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_files(zipped, tmp_path):
    path = tmp_path / "beats.pt"
    torch.save({"cfg": {}, "model": sparse(beats_names())}, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    for share in (0, 0.001, 0.5, 0.99):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(
            ValueError, match=r"beats.pt is truncated or no weight file \(\w+\): fetch the file again"
        ):
            encoders.load("beats", path)


@pytest.mark.parametrize(
    "content", [b"RIFF....WAVEfmt ", b"<!doctype html><html>", b"\x80\x02.", b"PK\x03\x04" + b"x" * 99]
)
def test_foreign_files(content, tmp_path):
    (tmp_path / "foreign.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"foreign.pt is truncated or no weight file"):
        weights.read(tmp_path / "foreign.pt")


def test_files_without_tensors_or_no_files(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"list.pt holds no tensors by name"):
        weights.read(tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"none.pt cannot be read \(No such file or directory\)"):
        weights.read(tmp_path / "none.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        weights.read(tmp_path)


@pytest.mark.parametrize("theirs", SHAPES)
@pytest.mark.parametrize("ours", SHAPES)
def test_weights_of_another_network(ours, theirs):
    if ours != theirs:
        message = (
            f"a/b.pt holds weights of the network '{theirs}', not of '{ours}': choose `network: {theirs}`"
        )
        with pytest.raises(ValueError, match=re.escape(message)):
            weights.fit(encoders.build(ours), sparse(SHAPES[theirs]), Path("a/b.pt"))


def test_missing_unknown_and_misshaped_tensors_are_named():
    state = sparse(beats_names())
    del state["encoder.layers.3.fc1.weight"]
    network = encoders.build("beats")
    with pytest.raises(
        ValueError,
        match=r"b.pt does not fit the network 'beats': tensor 'encoder.layers.3.fc1.weight' \[3072, 768\] is missing$",
    ):
        weights.fit(network, state, Path("b.pt"))
    state["encoder.layers.3.fc1.weight"] = torch.zeros(5, 768)
    with pytest.raises(
        ValueError, match=r"'encoder.layers.3.fc1.weight' has the shape \[5, 768\] instead of \[3072, 768\]$"
    ):
        weights.fit(network, state, Path("b.pt"))
    state = sparse(beats_names() | {"encoder.layers.12.fc1.bias": (3072,), "other": (2,)})
    with pytest.raises(
        ValueError, match=r"tensor 'encoder.layers.12.fc1.bias' is unknown \(and 1 more faults\)$"
    ):
        weights.fit(network, state, Path("b.pt"))
    with pytest.raises(
        ValueError, match=r"is missing \(and \d+ more faults\); the file seems to be of no network"
    ):
        weights.fit(network, {"conv1.weight": torch.zeros(3)}, Path("resnet.pt"))


# ------------------------------------------------------------------------------------ networks of transformers


@pytest.fixture(scope="module")
def transformers():
    """The package, silent; the tests that need it are skipped without it."""
    package = pytest.importorskip("transformers")
    package.utils.logging.set_verbosity_error()
    package.utils.logging.disable_progress_bar()
    return package


def published(model):
    """The tensors of a model's file, under the names of the hub."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_ast_equals_its_package(transformers, tmp_path):
    from asdray.frontends.encoders.hub import Ast

    torch.manual_seed(0)
    config = transformers.ASTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48
    )
    model = transformers.ASTForAudioClassification(config).eval()
    network = Ast(config)
    torch.save(published(model), tmp_path / "ast.pt")
    weights.load(network, tmp_path / "ast.pt")
    assert (network.bands, network.width, network.has_cls, network.training) == (12, 24, True, False)

    clips = waves(2, (0, 1))
    extractor = transformers.ASTFeatureExtractor()
    inputs = extractor(list(clips.numpy()), sampling_rate=16_000, return_tensors="pt").input_values
    torch.testing.assert_close(network.spectrum(clips), inputs, atol=1e-4, rtol=0)
    with torch.no_grad():
        found = network(network.spectrum(clips), [1, 2])
        expected = model.audio_spectrogram_transformer(inputs, output_hidden_states=True)
    torch.testing.assert_close(found[2].cls, expected.pooler_output, atol=1e-4, rtol=0)
    # The package's tokens have the times of a band one after another.
    for layer, tokens in ((1, expected.hidden_states[1]), (2, expected.last_hidden_state)):
        grid = tokens[:, 2:].reshape(2, 12, 101, 24).permute(0, 2, 1, 3)
        torch.testing.assert_close(found[layer].grid, grid, atol=1e-4, rtol=0)
    # 12 s are two windows, the second one the last 1024 of the 1198 frames.
    with torch.no_grad():
        long = network(network.spectrum(waves(12)), [2])[2]
        last = network(network.spectrum(waves(12)[:, 174 * 160 :]), [2])[2]
    assert long.grid.shape == (1, 202, 12, 24)
    torch.testing.assert_close(long.grid[:, 101:], last.grid, atol=1e-4, rtol=0)


def test_clap_equals_its_package(transformers, tmp_path):
    from torchaudio.functional import resample

    from asdray.frontends.encoders.hub import Clap

    torch.manual_seed(0)
    small = {
        "patch_embeds_hidden_size": 8,
        "num_attention_heads": [1, 2, 4, 8],
        "hidden_size": 64,
        "depths": [1] * 4,
    }
    fused = transformers.ClapAudioConfig(enable_fusion=True, fusion_type="aff_2d", **small)
    model = transformers.ClapAudioModelWithProjection(fused).eval()
    network = Clap(transformers.ClapAudioConfig(**small))
    state = published(model) | {
        "text_projection.linear1.weight": torch.zeros(3),
        "logit_scale_a": torch.zeros(()),
    }
    torch.save(state, tmp_path / "clap.pt")
    weights.load(network, tmp_path / "clap.pt")

    extractor = transformers.ClapFeatureExtractor(frequency_min=50, frequency_max=14_000)
    clips = waves(3, (0, 1))
    inputs = extractor(
        list(resample(clips, 16_000, 48_000).numpy()), sampling_rate=48_000, return_tensors="pt"
    ).input_features
    torch.testing.assert_close(network.spectrum(clips), inputs[:, 0].float(), atol=0.05, rtol=0)  # dB
    with torch.no_grad():
        found = network(network.spectrum(clips), [1])[1].grid
        expected = model(inputs.float(), is_longer=torch.zeros(2, 1, dtype=torch.bool)).audio_embeds
        long = network(network.spectrum(waves(12)), [1])[1].grid
        last = network(network.spectrum(waves(12)[:, 32_000:]), [1])[1].grid
    torch.testing.assert_close(found[:, 0, 0], expected, atol=1e-4, rtol=0)
    assert long.shape == (1, 2, 1, 512)
    torch.testing.assert_close(long[:, 1], last[:, 0], atol=1e-2, rtol=0)


@pytest.mark.parametrize("name", ["ast", "clap"])
def test_faults_of_hub_weights_are_named(name, transformers):
    network = encoders.build(name)
    state = {
        name: torch.zeros((), dtype=value.dtype).expand(value.shape)
        for name, value in network.model.state_dict().items()
    }
    some = next(key for key in state if key.endswith("proj.weight"))
    with pytest.raises(
        ValueError, match=f"x.pt does not fit the network '{name}': tensor '{some}' has the shape"
    ):
        weights.fit(network, state | {some: torch.zeros(2)}, Path("x.pt"))
    with pytest.raises(ValueError, match=f"tensor '{some}' is missing"):
        weights.fit(
            encoders.build(name), {key: value for key, value in state.items() if key != some}, Path("x.pt")
        )
    with pytest.raises(ValueError, match="holds weights of the network 'beats'"):
        weights.fit(encoders.build(name), sparse(beats_names()), Path("x.pt"))


def test_without_transformers_one_message_says_so(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        ValueError, match=r"'ast' needs the package transformers .*pip install 'asdray\[transformers\]'"
    ):
        encoders.build("ast")
