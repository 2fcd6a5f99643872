"""LoRA, heads and losses of tuned encoders against the original code with made-up weights.

Outputs, gradients and one optimiser step are those of ASDKit with peft 0.15.1, in ``golden/encoders``.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from encoders_made_up import beats_names, by_rule, eat_names, filled, waves
from golden.encoders.rules import noise, tensor

from asdray.config.branch import EncoderBranch as Options
from asdray.config.losses import SubclusterAdaCos
from asdray.frontends.aggregation import AttentiveStatistics
from asdray.frontends.encoder_branch import EncoderBranch
from asdray.frontends.encoders import weights
from asdray.frontends.heads import build_loss

LORA, HEADS = (np.load(Path(__file__).parent / f"golden/encoders/{name}.npz") for name in ("lora", "heads"))
LAYERS = [f"encoder.layers.{i}.self_attn.{p}_proj.lora_{m}" for i in range(12) for p in "vq" for m in "AB"]
HEAD = {
    "attention.0.weight": (48, 2304, 1), "attention.0.bias": (48,),
    "attention.2.weight": (48,), "attention.2.bias": (48,),
    "attention.4.weight": (768, 48, 1), "attention.4.bias": (768,),
    "last_layer.0.weight": (1536,), "last_layer.0.bias": (1536,),
    "last_layer.1.weight": (768, 1536), "last_layer.1.bias": (768,),
    "last_layer.2.weight": (768,), "last_layer.2.bias": (768,),
}  # fmt: skip
STATISTICS = {
    f"{norm}.{leaf}": (width,)
    for norm, width in (("attention.2", 48), ("last_layer.0", 1536), ("last_layer.2", 768))
    for leaf in ("running_mean", "running_var")
}
NAMES = {
    **{f"{name}.weight": f"network.{name}.weight" for name in LAYERS},
    **{f"projection_net.0.{name}": f"head.{name}" for name in HEAD},
    **{f"projection_net.1.{leaf}": f"projection.{leaf}" for leaf in ("weight", "bias")},
}
"""Name of the original -> ours, in the order of the arrays with a number per tensor."""
NO_GRADIENT = ("attention.4.bias",)
"""A shift of all scores of a softmax: the exact gradient is 0, which Adam would turn into steps of noise."""
NO_GRADIENT_IN_TRAINING = (*NO_GRADIENT, "last_layer.0.bias", "last_layer.1.bias")
"""A batch norm by the statistics of the batch follows."""


def start(branch):
    """Gives the parts beside the encoder their made-up values."""
    wanted = {**NAMES, **{f"projection_net.0.{name}": f"head.{name}" for name in STATISTICS}}
    state = branch.state_dict()
    shapes = {f"projection_net.0.{name}": shape for name, shape in (HEAD | STATISTICS).items()}
    for name, ours in wanted.items():
        value = tensor(name, shapes.get(name, tuple(state[ours].shape)))
        state[ours].copy_(torch.from_numpy(value).view_as(state[ours]))
    return branch


@pytest.fixture(scope="module")
def beats():
    options = Options(
        network="beats", weights="x.pt", tune="lora", head="attentive_statistics", dropout="none"
    )
    branch = EncoderBranch(options)
    weights.fit(branch.network, by_rule(beats_names()), Path("made-up"))
    branch.tune()
    return branch


def parameters(branch):
    found = dict(branch.named_parameters())
    return [found[ours] for ours in NAMES.values()]


def test_what_learns(beats):
    learns = {name for name, p in beats.named_parameters() if p.requires_grad}
    assert learns == set(NAMES.values())
    assert sum(p.numel() for p in beats.network.parameters() if p.requires_grad) == 2_359_296
    assert sum(p.numel() for p in parameters(beats)) == 2_359_296 + 1_530_256
    # In a checkpoint, beside the centres of 150 classes with 16 sub-clusters: under 20 MB.
    saved = set(beats.state_dict()) - set(beats.frozen_state())
    buffers = {f"head.{name}" for name in STATISTICS}
    counters = {name for name in saved if name.endswith("num_batches_tracked")}
    assert saved == {*NAMES.values(), *buffers, *counters}
    n_bytes = sum(beats.state_dict()[name].nbytes for name in saved) + 150 * 16 * 256 * 4
    assert n_bytes < 19e6


def test_lora_starts_as_the_encoder_itself(beats):
    torch.manual_seed(0)
    fresh = EncoderBranch(beats.config)
    weights.fit(fresh.network, fresh_state(beats), Path("made-up"))
    fresh.tune()
    layers = [m for m in fresh.network.modules() if hasattr(m, "lora_A")]
    assert len(layers) == 24
    bound = 1 / np.sqrt(768)  # kaiming uniform with a = sqrt(5), as torch's linear layers and peft's A
    for layer in layers:
        assert layer.lora_B.weight.abs().max() == 0
        assert 0.98 * bound < layer.lora_A.weight.abs().max() <= bound


def fresh_state(beats):
    return {n: v for n, v in beats.network.state_dict().items() if "lora" not in n}


def test_lora_and_head_equal_the_original(beats):
    start(beats).eval()
    for p in parameters(beats):
        p.grad = None
    tokens = beats.tokens(waves(2, (0, 1, 2)))
    np.testing.assert_allclose(
        tokens.grid[0].mean((0, 1)).detach().numpy(), LORA["tokens_mean"], atol=1e-4, rtol=0
    )
    np.testing.assert_allclose(tokens.grid[0, 0, 0].detach().numpy(), LORA["tokens_first"], atol=1e-4, rtol=0)
    embedding = beats.embedded(tokens)
    np.testing.assert_allclose(embedding[0].detach().numpy(), LORA["embedding"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(embedding.detach().numpy(), LORA["eval_embedding"], atol=1e-4, rtol=0)
    loss = embedding.square().mean()
    assert loss.item() == pytest.approx(0.5807226300239563, abs=1e-5)
    loss.backward()
    check_gradients(beats, "eval", NO_GRADIENT, 1e-4)


def check_gradients(branch, prefix, without, tolerance):
    for name, p, norm in zip(NAMES, parameters(branch), LORA[f"{prefix}_grad_norm"], strict=True):
        if name.removeprefix("projection_net.0.") not in without:
            assert p.grad.norm().item() == pytest.approx(norm, rel=tolerance, abs=1e-8), name
    found = dict(branch.named_parameters())
    for layer in (0, 11):
        for part in ("qA", "qB", "vA", "vB"):
            name = f"network.encoder.layers.{layer}.self_attn.{part[0]}_proj.lora_{part[1]}.weight"
            expected = LORA[f"{prefix}_grad_{layer}{part}"]
            np.testing.assert_allclose(
                found[name].grad[:4, :4].numpy(), expected, rtol=5e-3, atol=np.abs(expected).max() * 1e-2
            )


def test_a_step_of_the_optimiser_equals_the_original(beats):
    start(beats).train()
    assert not beats.network.training, "without dropouts"
    for p in parameters(beats):
        p.grad = None
    optimiser = torch.optim.AdamW(parameters(beats), lr=1e-4, weight_decay=0.01, fused=True)
    embedding = beats(waves(2, (0, 1, 2)))
    np.testing.assert_allclose(embedding.detach().numpy(), LORA["train_embedding"], atol=2e-4, rtol=0)
    loss = embedding.square().mean()
    assert loss.item() == pytest.approx(0.9985972046852112, abs=1e-4)
    loss.backward()
    check_gradients(beats, "train", NO_GRADIENT_IN_TRAINING, 5e-4)
    optimiser.step()
    for i, (name, p) in enumerate(zip(NAMES, parameters(beats), strict=True)):
        if name.removeprefix("projection_net.0.") not in NO_GRADIENT_IN_TRAINING:
            assert p.sum().item() == pytest.approx(LORA["train_after_sum"][i], abs=2e-3), name
            assert p.double().norm().item() == pytest.approx(LORA["train_after_norm"][i], abs=1e-4), name
    with torch.no_grad():
        after = beats(waves(2, (0, 1, 2)))
    np.testing.assert_allclose(after.numpy(), LORA["train_after_embedding"], atol=3e-3, rtol=0)
    state = beats.state_dict()
    for name in STATISTICS:
        expected = LORA[f"train_after2_projection_net.0.{name}"]
        np.testing.assert_allclose(state[f"head.{name}"].numpy(), expected, atol=2e-4, rtol=1e-4)


def test_lora_of_eat():
    branch = EncoderBranch(
        Options(network="eat", weights="x.pt", frame_multiple=32, tune="lora", head="cls", embedding_dim=None)
    )
    filled(branch.network, eat_names())
    branch.tune()
    names = [n for n, p in branch.network.named_parameters() if p.requires_grad]
    assert len(names) == 24
    assert {n.split(".", 2)[2] for n in names} == {f"attn.qkv.lora_{m}.weight" for m in "AB"}
    with torch.no_grad():
        plain = branch.eval()(waves(2))
        for name, p in branch.network.named_parameters():
            if p.requires_grad:
                p.copy_(torch.from_numpy(tensor(f"model.{name}", tuple(p.shape))))
        moved = branch(waves(2))
    reference = np.load(Path(__file__).parent / "golden/encoders/eat.npz")["base_batch2_224_cls"]
    np.testing.assert_allclose(plain[0].numpy(), reference[0], atol=6e-5, rtol=0)
    # The largest change of a value of CLS in the original.
    assert (moved - plain).abs().max().item() == pytest.approx(2.020174980163574, abs=2e-4)


# -------------------------------------------------------------------------------------------- heads and loss


IN_TRAINING = 5e-5
"""Norms by four clips amplify rounding: the original in float32 is 2.8e-5 from the formula in float64."""


def head(initial=False):
    module = AttentiveStatistics(768, initial)
    state = module.state_dict()
    for name, shape in (HEAD | STATISTICS).items():
        value = torch.from_numpy(tensor(f"projection_net.0.{name}", shape))
        state[name].copy_(value.view_as(state[name]))
    x = noise("asp mean 768", (4, 1, 768)) + 0.7 * noise("asp tokens 768", (4, 20, 768))
    return module, torch.from_numpy(x.astype(np.float32))


def test_attentive_statistics_equal_the_original():
    module, x = head()
    x.requires_grad_()
    found = module.eval()(x)
    np.testing.assert_allclose(found.detach().numpy(), HEADS["asp768_eval"], atol=2e-5, rtol=0)
    found.square().mean().backward()
    assert x.grad.norm().item() > 0
    found = module.train()(x)
    np.testing.assert_allclose(found.detach().numpy(), HEADS["asp768_train"], atol=IN_TRAINING, rtol=0)
    for name in STATISTICS:
        expected = HEADS[f"asp768_after_{name}"]
        np.testing.assert_allclose(module.state_dict()[name].numpy(), expected, atol=2e-5, rtol=0)
    module, x = head(initial=True)
    np.testing.assert_allclose(
        module.eval()(x).detach().numpy(), HEADS["asp768_eval_initial_stats"], atol=2e-5, rtol=0
    )
    np.testing.assert_allclose(
        module.train()(x).detach().numpy(), HEADS["asp768_train"], atol=IN_TRAINING, rtol=0
    )


def test_attentive_statistics_of_a_single_token_are_finite():
    module, x = head()
    assert module.eval()(x[:, :1]).isfinite().all()


@pytest.mark.parametrize("targets", ["hard", "soft"])
def test_sub_cluster_adacos_equals_the_original(targets):
    hard = np.eye(5)[[0, 1, 2, 3, 4, 1]]
    share = np.array([1, 0.9, 0.7, 0.5, 0.3, 0.0])[:, None]
    y = hard if targets == "hard" else share * hard + (1 - share) * hard[::-1]
    loss = build_loss(SubclusterAdaCos(trainable=True), 256, 5)
    loss.centres.data.copy_(torch.from_numpy(noise("loss.W", (256, 80)).T.astype(np.float32)))
    x = torch.from_numpy(noise("scac emb", (6, 256)).astype(np.float32)).requires_grad_()
    value = loss(x, torch.from_numpy(y.astype(np.float32)))
    key = f"scac_{targets}_fixed"
    assert value.item() == pytest.approx(HEADS[f"{key}_loss"].item(), abs=5e-6)
    assert loss.scale == pytest.approx(HEADS[f"{key}_s"][0], rel=1e-6)
    value.backward()
    np.testing.assert_allclose(x.grad.numpy(), HEADS[f"{key}_xgrad"], atol=5e-6, rtol=0)
    gradient = loss.centres.grad.T
    assert gradient.norm().item() == pytest.approx(HEADS[f"{key}_wgrad_norm"].item(), abs=5e-6)
    np.testing.assert_allclose(gradient[:4, :4].numpy(), HEADS[f"{key}_wgrad44"], atol=5e-6, rtol=0)
