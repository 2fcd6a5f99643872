"""Tuned encoders: what learns, what a checkpoint holds, and results that do not depend on interruptions."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from encoders_made_up import small_networks
from tiny import build_year, trial_of

from asdray import frontends
from asdray.audio.batches import Clips
from asdray.config import losses
from asdray.config.branch import EncoderBranch
from asdray.config.encoder import NETWORKS
from asdray.config.files import validate
from asdray.config.frontend import Discriminative, SpecAugment
from asdray.config.system import Audio, System, Train
from asdray.config.tuning import TARGETS, Lora
from asdray.frontends import encoders
from asdray.frontends.encoders.beats import Beats
from asdray.frontends.encoders.eat import DropPath, Eat
from asdray.stages.extract import extract, read_extract
from asdray.stages.steps import TrialFiles
from asdray.stages.train import train
from asdray.store import Places


@pytest.fixture(scope="module", autouse=True)
def data(tmp_path_factory):
    """A tiny year; BEATs and EAT have two narrow blocks and made-up weights."""
    folder = tmp_path_factory.mktemp("data")
    build_year(folder)
    with small_networks(folder / "encoders"):
        yield folder


def branch(network="beats", **options):
    own = {"weights": f"encoders/{network}.pt", "layer": 2, "embedding_dim": 8}
    return EncoderBranch(network=network, **own | options)


COLUMNS = {
    "machine": ["fan", "fan", "pump", "pump"],
    "section": [0] * 4,
    "attributes": ["a", "b", "a", "b"],
    "domain": ["source"] * 4,
}
N_SAMPLES = 6400


def built(data, *branches, **options):
    config = Discriminative(branches=branches, **options)
    files = {kind: {"fan": data / branches[i].weights} for i, kind in config.encoder_kinds.items()}
    return frontends.build(config, N_SAMPLES, columns=COLUMNS, files=files, seed=1)


def batch_of(frontend):
    rng = np.random.default_rng(0)
    samples = rng.integers(-3000, 3000, (4 * 7000, 1)).astype(np.int16)
    pack = SimpleNamespace(clips=list("abcd"), samples=samples, offsets=np.arange(5) * 7000)
    return next(frontend.training_data(Clips([pack]), COLUMNS, 4, rng).epoch(rng))


# ------------------------------------------------------------------------------------------ configuration


def system(**options):
    value = {"name": "encoder", "network": "beats", "weights": "BEATs_iter3", **options}
    return validate(System, {"frontend": {"name": "discriminative", "branches": [value]}}, "x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "cls"}, "head: network 'beats' has no CLS token: choose mean or attentive_statistics"),
        ({"layer": 13}, "layer: network 'beats' has no layer 13: choose last, or 1 to 12"),
        ({"network": "aisfx", "weights": "aisfx", "tune": "lora"}, "'aisfx' has no linear layers that lora"),
        ({"tune": {"name": "lora", "targets": ["qkv"]}}, "network 'beats' has no layer 'qkv'"),
        ({"tune": {"name": "lora", "targets": ["q", "q"]}}, "targets names 'q' twice"),
        ({"tune": {"last": 13}}, "network 'beats' has 12 blocks up to layer last, not 13"),
        ({"tune": {"last": 5}, "layer": 4}, "network 'beats' has 4 blocks up to layer 4, not 5"),
        ({"network": "aisfx", "weights": "aisfx", "tune": {"last": 1}}, "'aisfx' has one block"),
        (
            {"network": "clap", "weights": "CLAP", "tune": {"name": "full", "layer_decay": 0.5}},
            "'clap' has one block",
        ),
        ({"tune": "some"}, "some"),
        ({"norm_stats": "initial"}, "norm_stats: the head 'mean' has no batch norm"),
        ({"network": "eat"}, "BEATs_iter3 are weights of network 'beats', not 'eat'"),
        ({"frame_multiple": 32}, "frame_multiple is an option of eat and eat_large, not of 'beats'"),
        ({"poolings": ["cls"]}, "poolings: network 'beats' has no CLS token"),
        ({"activation_checkpointing": True}, "saves nothing with tune none"),
        (
            {"network": "aisfx", "weights": "aisfx", "tune": "full", "activation_checkpointing": True},
            "activation_checkpointing is an option of beats, eat, eat_large, not of 'aisfx'",
        ),
    ],
)
def test_options_that_do_not_fit_are_one_message(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        system(**options)
    assert len(str(caught.value).splitlines()) == 1


def test_the_published_system_is_a_configuration():
    found = validate(
        System,
        {
            "frontend": {
                "name": "discriminative",
                "branches": [
                    {
                        "name": "encoder",
                        "network": "beats",
                        "weights": "BEATs_iter3",
                        "tune": {"name": "lora", "rank": 64, "alpha": 8, "targets": ["q", "v"]},
                        "head": "attentive_statistics",
                        "embedding_dim": 256,
                        "norm_stats": "initial",
                        "poolings": [{"name": "rdp", "gamma": 4, "tokens": "bands"}],
                    }
                ],
                "loss": {"name": "subcluster_adacos", "n_subclusters": 16, "trainable": True},
                "mixup_probability": 0.5,
            },
            "train": {"epochs": 25, "batch_size": 8, "learning_rate": 1e-4, "weight_decay": 0.01},
        },
        "x",
    )
    assert found.frontend.embeddings == ("embedding", "L12_bands_rdp_4")
    (file,) = found.frontend.input_files("dcase2023", "fan", 0)
    assert (file.kind, file.path, file.option) == ("encoder", "encoders/BEATs_iter3.pt", "branches.0.weights")
    assert file.sha256.startswith("8d1b2340")
    with pytest.raises(ValueError, match="are too short for network 'beats'"):
        found.frontend.check(2000)


def test_equal_options_have_equal_ids():
    lora = system(tune="lora")
    assert lora.id == system(tune={"name": "lora", "targets": ["v", "q"], "rank": 64, "alpha": 8}).id
    assert lora.id == system(tune="lora", weights="/elsewhere/BEATs_iter3.pt").id
    assert system(tune={"last": 2}).id == system(tune={"name": "last", "blocks": 2}).id
    others = [lora, system(), system(tune="full"), system(tune={"last": 2}), system(tune="lora", layer=4)]
    assert len({one.id for one in others}) == len(others)


def test_encoders_of_several_branches():
    same, other = branch(poolings=["mean"]), branch("eat", poolings=["cls"])
    config = Discriminative(branches=(same, other, branch(layer=1)))
    assert config.encoder_kinds == {0: "encoder", 1: "encoder2", 2: "encoder"}
    files = config.input_files("dcase2023", "fan", 0)
    assert [(f.kind, f.option) for f in files] == [
        ("encoder", "branches.0.weights"), ("encoder2", "branches.1.weights"),
    ]  # fmt: skip
    assert config.embeddings == ("embedding", "L2_mean", "L2_cls")
    assert config.takes_any_length
    assert not Discriminative().takes_any_length
    with pytest.raises(ValueError, match="names 'L2_mean' twice"):
        Discriminative(branches=(same, same))


def test_targets_of_planning_are_those_of_the_networks():
    for name in ("beats", "eat", "eat_large", "aisfx"):
        assert tuple(encoders.build(name).targets) == TARGETS.get(name, ())
    from asdray.frontends.encoders.hub import Ast, Clap

    for network in (Ast, Clap):
        assert tuple(network.targets) == TARGETS[network.name]
    assert set(TARGETS) == set(NETWORKS) - {"aisfx"}


# ---------------------------------------------------------------------------------------------- what learns

STEM = {"patch_embedding", "layer_norm", "post_extract_proj", "encoder"}


def learning(frontend):
    """Names of the encoder's tensors that get a gradient from the loss, after a check with the flags."""
    frontend.train()
    frontend.loss(batch_of(frontend)).backward()
    names = dict(frontend.branches[0].network.named_parameters())
    with_gradient = {n for n, p in names.items() if p.grad is not None}
    assert with_gradient == {n for n, p in names.items() if p.requires_grad}
    frozen = set(frontend.frozen_state())
    assert {n for n in names if f"branches.0.network.{n}" not in frozen} == with_gradient
    assert all(n.startswith("branches.0.network.") for n in frozen)
    return with_gradient


@pytest.mark.parametrize("network", ["beats", "eat"])
def test_tuning_decides_what_learns(data, network):
    every = {n for n, _ in built(data, branch(network)).branches[0].network.named_parameters()}
    place = "encoder.layers" if network == "beats" else "blocks"

    def found(tune, layer=2):
        # Without random depth: a block that is left out has no gradient.
        return learning(built(data, branch(network, tune=tune, layer=layer, dropout="none")))

    assert found("none") == set()
    assert found("full") == every
    assert found("full", layer=1) == {n for n in every if not n.startswith(f"{place}.1.")}
    assert found({"last": 1}) == {n for n in every if n.startswith(f"{place}.1.")}
    lora = found({"name": "lora", "rank": 2, "targets": ["fc1", "fc2"]})
    assert len(lora) == 8
    assert all(".fc" in n and ".lora_" in n for n in lora)
    assert all(n.startswith(f"{place}.0.") for n in found("lora", layer=1))


def test_a_frozen_encoder_has_no_backward_and_no_dropout(data):
    frontend = built(data, branch())
    frontend.train()
    (part,) = frontend.branches
    waves = torch.rand(2, N_SAMPLES)
    tokens = part.tokens(waves)
    assert not tokens.grid.requires_grad
    assert not any(m.training for m in part.network.modules())
    assert torch.equal(tokens.grid, part.eval().tokens(waves).grid)


@pytest.mark.parametrize("network", ["beats", "eat"])
def test_dropouts_are_active_in_training_alone(data, network):
    waves = torch.rand(3, N_SAMPLES)
    part = built(data, branch(network, tune={"name": "lora", "rank": 2})).branches[0]
    torch.manual_seed(0)
    first, second = part.train()(waves), part(waves)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(part(waves), first)
    assert torch.equal(part.eval()(waves), part(waves))
    without = built(data, branch(network, tune={"name": "lora", "rank": 2}, dropout="none")).branches[0]
    assert torch.equal(without.train()(waves), part(waves))
    own = built(data, branch(network, tune={"name": "lora", "rank": 2, "dropout": 0.5}, dropout="none"))
    with torch.no_grad():
        for name, p in own.named_parameters():
            if "lora_B" in name:
                p.fill_(1.0)
    part = own.branches[0].train()
    assert not torch.equal(part(waves), part(waves)), "LoRA's dropout is its own"


def test_published_rates(tmp_path):
    pretrained = Beats()
    assert {m.p for m in pretrained.modules() if isinstance(m, torch.nn.Dropout)} == {0.1}
    assert (pretrained.layerdrop, pretrained.gradient_decay) == (0.05, 1.0)
    state = {**pretrained.state_dict(), "predictor.weight": torch.zeros(527, 48)}
    assert pretrained.fill(state) == []
    assert {m.p for m in pretrained.modules() if isinstance(m, torch.nn.Dropout)} == {0.0}
    assert (pretrained.layerdrop, pretrained.gradient_decay) == (0.05, 0.6)
    assert [m.p for m in Eat().modules() if isinstance(m, DropPath)] == [0.0, 0.1]
    torch.manual_seed(0)
    dropped = DropPath(0.1)(torch.ones(10_000, 2))
    assert torch.equal(dropped[:, 0], dropped[:, 1])
    np.testing.assert_allclose(sorted(set(dropped[:, 0].tolist())), [0, 1 / 0.9], rtol=1e-6)
    assert dropped.mean().item() == pytest.approx(1, abs=0.01)


def test_blocks_are_left_out_and_gradients_decay():
    network = Beats().train()
    network.layerdrop = 0.5
    x = torch.rand(1, 8, 48)
    calls = []
    for i, block in enumerate(network.stack):
        block.forward = lambda x, i=i: calls.append(i) or x + 1
    torch.manual_seed(0)
    for _ in range(1000):
        network.run(x, [2], lambda x: x)
    assert len(calls) == pytest.approx(1000, abs=100)
    network.eval().gradient_decay = 0.6
    x.requires_grad_()
    (network.run(x * 1, [2], lambda x: x)[2]).sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 0.36))


def test_activation_checkpointing_changes_no_gradient(data):
    gradients = []
    for checkpointing in (False, True):
        options = {"tune": {"name": "full"}, "activation_checkpointing": checkpointing}
        frontend = built(data, branch(**options), branch("eat", **options))
        frontend.train()
        torch.manual_seed(3)
        frontend.loss(batch_of(frontend)).backward()
        gradients.append({n: p.grad for n, p in frontend.named_parameters() if p.grad is not None})
    plain, again = gradients
    assert list(plain) == list(again)
    for name, value in plain.items():
        torch.testing.assert_close(again[name], value, rtol=1e-5, atol=1e-7)


def test_rates_fall_from_block_to_block(data):
    frontend = built(data, branch(tune={"name": "full", "layer_decay": 0.5}, head="attentive_statistics"))
    options = Train(learning_rate=0.1)
    first, *groups = frontend.parameter_groups(options)
    network = dict(frontend.branches[0].network.named_parameters())
    names = {id(p): n for n, p in network.items()}
    assert "lr" not in first
    assert [group["lr"] for group in groups] == [0.05, 0.025]
    own = [{names.get(id(p), "head") for p in group["params"]} for group in (first, *groups)]
    assert own[0] == {"head", *(n for n in network if n.startswith("encoder.layers.1."))}
    assert own[1] == {n for n in network if n.startswith("encoder.layers.0.")}
    assert own[2] == {n for n in network if not n.startswith("encoder.layers.")}
    assert len(built(data, branch(tune="full")).parameter_groups(options)) == 1


LOSSES = (
    losses.SupCon(),
    losses.AdaCos(trainable=True), losses.SubclusterAdaCos(trainable=True), losses.ArcFace(),
    losses.AdaProj(subspace_dim=3, trainable=True),
)  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_with_every_loss_head_and_augmentation_beside_another_branch(data, loss):
    fft = {"name": "fft", "channels": 4, "kernels": [32, 16, 4], "strides": [16, 8, 2], "embedding_dim": 5}
    tuned = branch("eat", tune={"name": "lora", "rank": 2}, head="cls", dropout="none")
    frontend = built(
        data,
        tuned,
        validate(Discriminative, {"branches": [fft]}, "x").branches[0],
        loss=loss,
        heads=(losses.SubspaceLoss(), losses.FeatEx()),
        spec_augment=SpecAugment(probability=1),
        mixup_of="spectrogram",
    )
    frontend.train()
    frontend.loss(batch_of(frontend)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learnt(frontend))
    with torch.inference_mode():
        found = frontend.eval().extract(torch.rand(2, N_SAMPLES))
    assert found["embedding"].shape == (2, 8 + 5)


def learnt(frontend):
    return [p for p in frontend.parameters() if p.requires_grad]


def test_bfloat16_training_is_close(data):
    frontend = built(
        data, branch(tune={"name": "lora", "rank": 2}, head="attentive_statistics", dropout="none")
    )
    batch = batch_of(frontend)
    frontend.train()
    exact = frontend.loss(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = frontend.loss(batch)
    found.backward()
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(exact.item(), rel=0.1)
    assert all(p.grad.isfinite().all() for p in learnt(frontend))


# ---------------------------------------------------------------------------------- training and checkpoints

TUNED = System(
    frontend=Discriminative(
        branches=(
            branch(
                tune=Lora(rank=2, dropout=0.1),
                head="attentive_statistics",
                poolings=["mean", {"name": "rdp", "gamma": 4, "tokens": "bands"}],
            ),
            branch("eat", tune={"last": 1}, head="cls"),
        ),
        loss=losses.SubclusterAdaCos(trainable=True),
    ),
    train=Train(epochs=3, batch_size=8),
    audio=Audio(duration=0.4),
)
WANTED = ("last", "best", "epoch_1")


def trained(data, results, on_epoch=None):
    trial = trial_of(TUNED)
    files = TrialFiles.load(trial, Places.of(data, results))
    train(files, trial.units[0], checkpoints=WANTED, on_epoch=on_epoch)
    return files, files.folder.model(trial.units[0].name) / "checkpoints"


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    return trained(data, tmp_path_factory.mktemp("undisturbed"))


def test_a_checkpoint_holds_what_learns_and_no_state_that_nobody_reads(undisturbed, data):
    _, folder = undisturbed
    frontend = built(data, *TUNED.frontend.branches, loss=TUNED.frontend.loss)
    kept = {f"frontend.{n}" for n in set(frontend.state_dict()) - set(frontend.frozen_state())}
    assert {n for n in kept if ".network." in n} == {
        *(
            f"frontend.branches.0.network.encoder.layers.{i}.self_attn.{p}_proj.lora_{m}.weight"
            for i in range(2) for p in "qv" for m in "AB"
        ),
        *(f"frontend.branches.1.network.blocks.1.{n}" for n in Eat().blocks[1].state_dict()),
    }  # fmt: skip
    for name in WANTED:
        saved = torch.load(folder / f"{name}.ckpt", weights_only=True)
        assert set(saved["state_dict"]) == kept
        assert "optimizer_states" not in saved


def test_a_training_that_was_stopped_ends_as_if_undisturbed(undisturbed, data, tmp_path):
    class Stop(Exception):  # noqa: N818 - what ends a training here is no error
        pass

    def on_epoch(row):
        if row["epoch"] == 1:
            raise Stop

    with pytest.raises(Stop):
        trained(data, tmp_path, on_epoch)
    last = next(tmp_path.rglob("last.ckpt"))
    assert torch.load(last, weights_only=True)["optimizer_states"], "the training goes on from here"
    files, again = trained(data, tmp_path)
    for name in WANTED:
        found, expected = (torch.load(f / f"{name}.ckpt", weights_only=True) for f in (again, undisturbed[1]))
        assert found["asdray"] == expected["asdray"]
        assert list(found["state_dict"]) == list(expected["state_dict"])
        assert all(torch.equal(v, expected["state_dict"][n]) for n, v in found["state_dict"].items())
    paths = []
    for one in (files, undisturbed[0]):
        extract(one, "fan", "last")
        paths.append(one.folder.extract("last", "fan", "test"))
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert "goes on after epoch 1" in (again.parent / "train.log").read_text()


def test_extraction_writes_the_embedding_and_poolings_of_tuned_tokens(undisturbed, data):
    files, folder = undisturbed
    extract(files, "fan", "last")
    path = files.folder.extract("last", "fan", "test")
    names = ("embedding", "L2_mean", "L2_bands_rdp_4")
    found = read_extract(path, names).embeddings
    assert {name: x.shape[1:] for name, x in found.items()} == {
        "embedding": (16,), "L2_mean": (48,), "L2_bands_rdp_4": (8, 48),
    }  # fmt: skip
    saved = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    frontend = built(data, *TUNED.frontend.branches, loss=TUNED.frontend.loss)
    tuned = {n.removeprefix("frontend."): v for n, v in saved.items() if ".branches." in n}
    frontend.load_state_dict(tuned, strict=False)
    from asdray.audio.cache import pack_of

    clips = Clips([pack_of(files.places, files.dataset, "fan", "test", "near")])
    waves = clips.gather(np.arange(len(clips)), N_SAMPLES) / 32768
    with torch.inference_mode():
        grid = frontend.eval().branches[0].tokens(waves).grid
    np.testing.assert_allclose(found["L2_mean"], grid.mean((1, 2)).numpy(), atol=1e-5)


def test_the_weights_enter_the_signature(data, tmp_path):
    from asdray.stages.steps import train_signature

    trial = trial_of(TUNED)
    before = train_signature(TrialFiles.load(trial, Places.of(data, tmp_path)), trial.units[0])
    path = data / "encoders" / "eat.pt"
    content = path.read_bytes()
    try:
        state = torch.load(path, weights_only=True)["model"]
        torch.save({"cfg": {}, "model": {n: v + 1 for n, v in state.items()}}, path)
        after = train_signature(TrialFiles.load(trial, Places.of(data, tmp_path)), trial.units[0])
    finally:
        path.write_bytes(content)
    assert before != after


def test_initial_statistics_of_norms_change_the_extraction_alone(data):
    saved, initial = (
        built(data, branch(tune="none", head="attentive_statistics", norm_stats=stats))
        for stats in ("saved", "initial")
    )
    initial.load_state_dict(saved.state_dict())
    waves = torch.rand(4, N_SAMPLES)
    with torch.no_grad():
        assert torch.equal(saved.train()(waves), initial.train()(waves))
        assert not torch.allclose(saved.eval()(waves), initial.eval()(waves))
        for norm in (m for m in saved.modules() if isinstance(m, torch.nn.BatchNorm1d)):
            norm.reset_running_stats()
        torch.testing.assert_close(saved(waves), initial(waves))
