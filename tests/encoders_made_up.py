"""Names, shapes and made-up values of the encoders' published tensors."""

import contextlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.encoders.rules import clip, tensor

from asdray.frontends.encoders import weights
from asdray.frontends.encoders.beats import Beats
from asdray.frontends.encoders.eat import Eat


def waves(seconds, seeds=(0,)):
    return torch.from_numpy(np.stack([clip(float(seconds), seed) for seed in seeds]))


def beats_names():
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
    for layer in range(12):
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


@contextlib.contextmanager
def small_networks(folder):
    """BEATs and EAT have two narrow blocks, and their made-up weights are ``<name>.pt`` in a new folder."""
    with pytest.MonkeyPatch.context() as patch:
        for network in (Beats, Eat):
            patch.setattr(network, "shape", (2, 48, 3))
        folder.mkdir(parents=True)
        torch.manual_seed(0)
        for module in (Beats(), Eat()):
            state = {n: torch.randn_like(v) * 0.1 + (v.ndim == 1) * v for n, v in module.state_dict().items()}
            torch.save({"cfg": {}, "model": state}, folder / f"{module.name}.pt")
        yield


def sparse(shapes):
    """Tensors of all names and shapes that take four bytes each in a file."""
    return {
        name: torch.zeros(1).expand(shape) if shape else torch.tensor(0) for name, shape in shapes.items()
    }
