"""AST and CLAP against the package transformers, with small random networks; skipped without it."""

import sys
from pathlib import Path

import pytest
import torch
from encoders_made_up import beats_names, sparse, waves

from asdray.frontends import encoders
from asdray.frontends.encoders import weights


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
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        ValueError, match=r"'ast' needs the package transformers .*pip install 'asdray\[transformers\]'"
    ):
        encoders.build("ast")


def test_lora_finds_every_target(transformers):
    from asdray.config.tuning import TARGETS, Lora
    from asdray.frontends.encoders.hub import Ast, Clap
    from asdray.frontends.tuning import tune

    small = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    sizes = {"patch_embeds_hidden_size": 8, "num_attention_heads": [1] * 4, "hidden_size": 64}
    for build in (
        lambda: Ast(transformers.ASTConfig(**small)),
        lambda: Clap(transformers.ClapAudioConfig(depths=[1, 1, 1, 1], **sizes)),
    ):
        for target in TARGETS[build().name]:
            network = build()
            tune(network, Lora(rank=2, targets=(target,)), network.n_layers)
            n_blocks = 2 if network.name == "ast" else 4
            assert sum(p.requires_grad for p in network.parameters()) == 2 * n_blocks, target
