"""Weight files of encoders: published forms, faults, and files that ask for code."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from encoders_made_up import aisfx_names, beats_names, eat_names, sparse

from asdray.frontends import encoders
from asdray.frontends.encoders import weights

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


def loaded(name, path):
    network = encoders.build(name)
    weights.load(network, path)
    return network


@pytest.mark.parametrize("name", SHAPES)
def test_published_files_load_and_heads_are_left_out(name, tmp_path):
    state = sparse(SHAPES[name] | EXTRA[name])
    torch.save({"cfg": {"deep_norm": True}, "model": state}, tmp_path / "weights.pt")
    network = loaded(name, tmp_path / "weights.pt")
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
    sys.modules["test_encoders"] = sys.modules[__name__]
    torch.save(content, tmp_path / "eat.pt")
    del sys.modules["test_encoders"]
    network = loaded("eat", tmp_path / "eat.pt")
    assert "test_encoders" not in sys.modules
    assert network.extra_tokens.unique().item() == 3
    # The same below `model.`, as in fine-tuned files.
    tuned = {f"model.{name}": value for name, value in state.items() if isinstance(value, torch.Tensor)}
    torch.save(
        {"model": tuned | sparse({"head.weight": (527, 768), "fc_norm.bias": (768,)})}, tmp_path / "tuned.pt"
    )
    assert loaded("eat", tmp_path / "tuned.pt").extra_tokens.unique().item() == 3


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


def safetensors(path, shapes):
    """Writes a file whose values are a hole of zeros."""
    header, position = {"__metadata__": {"format": "pt"}}, 0
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
    assert loaded("eat", tmp_path / "eat.safetensors").blocks[11].norm1.weight.sum() == 0
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
            loaded("beats", path)


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
