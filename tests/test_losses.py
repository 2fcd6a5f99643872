"""Losses against their formulas in float64 and against finite differences; mixup's laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asdray.frontends.augment import draw_mixup, mix
from asdray.frontends.losses import AngularLoss


def _formula(x: np.ndarray, y: np.ndarray, centres: np.ndarray, k: int) -> float:
    """Softmax over all centres, summed per class: the textbook form in float64."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    w = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    scale = np.sqrt(2) * np.log(len(w) - 1)
    e = np.exp(scale * x @ w.T)
    p = e / e.sum(axis=1, keepdims=True)
    p_class = np.stack([p[:, c * k : (c + 1) * k].sum(axis=1) for c in range(y.shape[1])], axis=1)
    return float(-(y * np.log(p_class)).sum(axis=1).mean())


def _example(k: int, n_classes: int = 5, seed: int = 0):
    torch.manual_seed(seed)
    loss = AngularLoss(7, n_classes, k, trainable=True)
    x = torch.randn(6, 7)
    y = torch.rand(6, n_classes)
    return loss, x, y / y.sum(1, keepdim=True)


@pytest.mark.parametrize("k", [1, 2, 16])
def test_loss_equals_its_formula(k):
    loss, x, y = _example(k)
    expected = _formula(x.double().numpy(), y.double().numpy(), loss.centres.detach().double().numpy(), k)
    assert loss(x, y).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("k", [1, 3])
def test_gradient_equals_a_finite_difference(k):
    loss, x, y = _example(k)
    x.requires_grad_()
    loss(x, y).backward()
    centres = loss.centres.detach().double().numpy()
    step = 1e-6
    for value, grad, which in ((x, x.grad, "x"), (loss.centres, loss.centres.grad, "w")):
        base = value.detach().double().numpy()
        for index in [(0, 0), (3, 5), (2, 6)]:
            moved = [base.copy(), base.copy()]
            moved[0][index] += step
            moved[1][index] -= step
            xs = [m if which == "x" else x.detach().double().numpy() for m in moved]
            ws = [m if which == "w" else centres for m in moved]
            high, low = (_formula(a, y.double().numpy(), w, k) for a, w in zip(xs, ws, strict=True))
            assert float(grad[index]) == pytest.approx((high - low) / (2 * step), abs=1e-5)


def test_scales_of_the_published_recipes():
    # 187 classes of 2023, with 16 sub-clusters 2992 centres.
    assert AngularLoss(4, 187, 1, False).scale == pytest.approx(7.390, abs=5e-4)
    assert AngularLoss(4, 187, 16, False).scale == pytest.approx(11.318, abs=5e-4)


def test_fixed_centres_are_no_parameters_but_are_saved():
    fixed, learnt = AngularLoss(4, 3, 2, trainable=False), AngularLoss(4, 3, 2, trainable=True)
    assert list(fixed.parameters()) == []
    assert [p.shape for p in learnt.parameters()] == [(6, 4)]
    assert list(fixed.state_dict()) == list(learnt.state_dict()) == ["centres"]


@pytest.mark.parametrize(
    ("n_classes", "k", "says"), [(2, 1, "subcluster"), (1, 1, "1 class"), (1, 16, "1 class")]
)
def test_too_few_classes_is_a_clear_error(n_classes, k, says):
    with pytest.raises(ValueError, match=says):
        AngularLoss(4, n_classes, k, False)


def test_two_classes_with_subclusters_learn():
    assert AngularLoss(4, 2, 2, False).scale > 0


def test_loss_is_computed_in_float32_under_bf16_autocast():
    loss, x, y = _example(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(x, y)
    assert inside.dtype == torch.float32
    assert inside.item() == loss(x, y).item()


def test_extreme_embeddings_stay_finite():
    loss, _, y = _example(16)
    x = torch.cat([torch.zeros(2, 7), torch.full((2, 7), 1e20), torch.full((2, 7), 1e-30)]).requires_grad_()
    value = loss(x, y)
    value.backward()
    assert value.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@settings(max_examples=50, deadline=None)
@given(size=st.integers(1, 20), probability=st.floats(0, 1), seed=st.integers(0, 99))
def test_mixup_keeps_targets_probabilities_and_unmixed_clips(size, probability, seed):
    partner, share = draw_mixup(np.random.default_rng(seed), size, probability)
    assert sorted(partner) == list(range(size))
    assert ((share >= 0) & (share <= 1)).all()
    values = torch.randn(size, 9)
    targets = torch.eye(4)[torch.arange(size) % 4]
    partner, share = torch.from_numpy(partner), torch.from_numpy(share)
    mixed, soft = mix(values, partner, share), mix(targets, partner, share)
    torch.testing.assert_close(soft.sum(1), torch.ones(size))
    torch.testing.assert_close(mixed, share[:, None] * values + (1 - share[:, None]) * values[partner])
    assert torch.equal(mixed[share == 1], values[share == 1])


def test_mixup_shares_are_uniform_for_half_of_the_clips():
    _, share = draw_mixup(np.random.default_rng(0), 20_000, 0.5)
    assert (share < 1).mean() == pytest.approx(0.5, abs=0.02)
    quartiles = np.quantile(share[share < 1], [0.25, 0.5, 0.75])
    np.testing.assert_allclose(quartiles, [0.25, 0.5, 0.75], atol=0.02)
