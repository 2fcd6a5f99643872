"""Options for GPUs, as far as a CPU can try them: recorded passes, compiled losses, batches on their way."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tiny import AE, DIS, build_year, trial_of

from asdray import frontends, store
from asdray.audio.features import SAMPLE_RATE
from asdray.config.system import load_recipe, with_overrides
from asdray.frontends import compute
from asdray.frontends.augment import draw_mixup
from asdray.frontends.discriminative import ClipBatch
from asdray.frontends.recorded import RecordedPass, arriving
from asdray.stages.steps import TrialFiles
from asdray.stages.train import train
from asdray.store import Places

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Places:
    folder = tmp_path_factory.mktemp("recorded")
    build_year(folder / "data")
    return Places.of(folder / "data", folder / "results")


def trained(system, places):
    """Loss and weights of a training."""
    trial = trial_of(system)
    loss = train(TrialFiles.load(trial, places), trial.units[0]).record.extra["loss"]
    path = store.trial_dir(places.results, trial).checkpoint(trial.units[0].name, "last")
    return loss, torch.load(path, weights_only=True)["state_dict"]


@pytest.mark.parametrize("system", [DIS, AE], ids=["dis", "ae"])
def test_graphs_and_the_compiler_are_asked_for_by_name(system, places, monkeypatch):
    """Each makes another system; a CPU computes the same bits with graphs, and nearly the same compiled."""
    monkeypatch.setattr(compute, "COMPILER", "aot_eager")  # the whole compiler takes a minute
    loss, weights = trained(system, places)
    graphs = with_overrides(system, {"train.cuda_graphs": True}, "x")
    compiled = with_overrides(system, {"train.compile": True}, "x")
    assert len({system.id, graphs.id, compiled.id}) == 3
    off = {"train.cuda_graphs": False, "train.compile": False}
    assert with_overrides(system, off, "x").id == system.id
    same, same_weights = trained(graphs, places)
    assert same == loss
    assert all(torch.equal(weights[name], value) for name, value in same_weights.items())
    assert trained(compiled, places)[0] == pytest.approx(loss, rel=1e-4)


def batches(n: int, size: int, seconds: int, n_classes: int):
    rng = np.random.default_rng(0)
    for _ in range(n):
        samples = torch.from_numpy(rng.integers(-3000, 3000, (size, seconds * SAMPLE_RATE), dtype=np.int16))
        partner, share = map(torch.from_numpy, draw_mixup(rng, size, 0.5))
        yield ClipBatch(samples, torch.from_numpy(rng.integers(0, n_classes, size)), partner, share)


def test_a_recorded_pass_has_the_gradients_of_every_batch_and_leaves_other_shapes_alone():
    labels = [f"{i}" for i in range(5)]
    columns = {"machine": labels, "section": labels, "attributes": labels, "domain": labels}
    config = load_recipe("dis_baseline").system.frontend
    one = frontends.build(config, 5 * SAMPLE_RATE, columns=columns, seed=0)
    other = copy.deepcopy(one)
    recorded = None
    for batch in batches(3, 4, 5, 5):
        recorded = recorded or RecordedPass(one, one.loss, batch)
        assert recorded.fits(batch)
        loss = recorded(batch)
        assert not loss.requires_grad
        other.zero_grad()
        wanted = other.loss(batch)
        wanted.backward()
        assert torch.equal(loss, wanted.detach())
        for mine, own in zip(one.parameters(), other.parameters(), strict=True):
            assert (mine.grad is None) == (own.grad is None)
            assert own.grad is None or torch.equal(mine.grad, own.grad)
    for mine, own in zip(one.buffers(), other.buffers(), strict=True):
        assert torch.equal(mine, own)
    (smaller,) = batches(1, 3, 5, 5)
    assert not recorded.fits(smaller)
    assert not recorded.fits(batch._replace(masks=torch.zeros(4, 4, dtype=torch.long)))


def test_what_cannot_be_recorded_is_refused_before_training():
    with pytest.raises(ValueError, match=r"one batch per step, but accumulate is 2: choose accumulate: 1"):
        with_overrides(DIS, {"train.cuda_graphs": True, "train.accumulate": 2}, "x")
    tuned = with_overrides(load_recipe("dis_beats_scac_trainable").system, {"train.cuda_graphs": True}, "x")
    with pytest.raises(ValueError, match=r"the same blocks of the encoder in every step: set dropout: none"):
        tuned.check("dcase2023")
    with_overrides(tuned, {"frontend.branches.0.dropout": "none"}, "x").check("dcase2023")


def test_batches_arrive_in_order_and_may_be_left():
    given = [(torch.ones(2), np.arange(i)) for i in range(3)]
    assert [batch is one for batch, one in zip(arriving(given, CPU), given, strict=True)] == [True] * 3
    made = []
    for batch in arriving((made.append(i) or torch.tensor(i) for i in range(5)), CPU):
        if int(batch) == 1:
            break
    assert made == [0, 1]
