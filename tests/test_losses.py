"""Losses against their formulas in float64 and against finite differences; too few classes; dynamic scales."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from asdray.config import losses as config
from asdray.frontends.heads import build_loss
from asdray.frontends.losses import MIN_SCALE, AdaCosLoss, loss_of

D = 7
OWN = np.eye(5)[np.arange(6) % 5]
"""The classes of the six clips of `_example` before mixup."""


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _cross_entropy(p: np.ndarray, y: np.ndarray) -> float:
    return float(-(y * np.log(p)).sum(axis=1).mean())


def _softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def _adacos(x, y, w, k=1, scale=None):
    """Softmax over all centres, summed per class."""
    scale = np.sqrt(2) * np.log(len(w) - 1) if scale is None else scale
    p = _softmax(scale * _unit(x) @ _unit(w).T)
    return _cross_entropy(np.stack([p[:, c * k : (c + 1) * k].sum(1) for c in range(y.shape[1])], axis=1), y)


def _arcface(x, y, w, margin_on, scale=64.0, margin=0.5):
    angle = np.arccos(_unit(x) @ _unit(w).T)
    angle = angle + (y * margin if margin_on == "target" else margin)
    return _cross_entropy(_softmax(scale * np.cos(angle)), y)


def _noisy_arcmix(x, y, w, scale=64.0, margin=0.5):
    """Clip by clip the cross entropies of both classes, with the margin at the clip's own class alone."""
    cosine, losses = _unit(x) @ _unit(w).T, []
    for b, own in enumerate(OWN.argmax(axis=1)):
        logits = scale * cosine[b]
        logits[own] = scale * np.cos(np.arccos(cosine[b, own]) + margin)
        log_p = logits - np.log(np.exp(logits).sum())
        mixed_in = int(np.argmax(np.where(OWN[b] == 1, 0, y[b])))
        losses.append(-y[b, own] * log_p[own] - (1 - y[b, own]) * log_p[mixed_in])
    return float(np.mean(losses))


def _arcmix(x, y, w, scale=64.0, margin=0.5):
    """The cross entropy of every class with the margin at this class."""
    cosine, total = _unit(x) @ _unit(w).T, 0.0
    for b, c in zip(*np.nonzero(y), strict=True):
        logits = scale * cosine[b]
        logits[c] = scale * np.cos(np.arccos(cosine[b, c]) + margin)
        total -= y[b, c] * (logits[c] - np.log(np.exp(logits).sum()))
    return total / len(x)


def _adaproj(x, y, w, k):
    x, w = _unit(x), _unit(w)
    cosine = np.empty(y.shape)
    for b, c in np.ndindex(*y.shape):
        projection = sum((x[b] @ w[c * k + i]) * w[c * k + i] for i in range(k))
        cosine[b, c] = x[b] @ projection / np.linalg.norm(projection)
    return _cross_entropy(_softmax(np.sqrt(2) * np.log(y.shape[1] - 1) * cosine), y)


def _supcon(x, y, w, classes=None, temperature=0.07):
    """Clip by clip and pair by pair."""
    x, classes, total = _unit(x), y if classes is None else classes, 0.0
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i]
        partition = sum(np.exp(x[i] @ x[k] / temperature) for k in others)
        alike = {j: sum(classes[i, c] * classes[j, c] for c in range(y.shape[1])) for j in others}
        log_p = {j: np.log(np.exp(x[i] @ x[j] / temperature) / partition) for j in others}
        if sum(alike.values()):
            total -= sum(alike[j] * log_p[j] for j in others) / sum(alike.values())
    return total / len(x)


CASES = {
    "adacos": (config.AdaCos(trainable=True), _adacos),
    "two sub-clusters": (
        config.SubclusterAdaCos(n_subclusters=2, trainable=True),
        lambda x, y, w: _adacos(x, y, w, 2),
    ),
    "sub-clusters": (config.SubclusterAdaCos(trainable=True), lambda x, y, w: _adacos(x, y, w, 16)),
    "arcface": (config.ArcFace(), lambda x, y, w: _arcface(x, y, w, "target")),
    "arcface, small scale": (
        config.ArcFace(scale=8, margin=0.2),
        lambda x, y, w: _arcface(x, y, w, "target", 8, 0.2),
    ),
    "arcface of the reference": (config.ArcFace(margin_on="all"), lambda x, y, w: _arcface(x, y, w, "all")),
    "noisy arcmix": (config.ArcFace(margin_on="own"), _noisy_arcmix),
    "noisy arcmix, small scale": (
        config.ArcFace(margin_on="own", scale=8, margin=0.2),
        lambda x, y, w: _noisy_arcmix(x, y, w, 8, 0.2),
    ),
    "arcmix": (config.ArcFace(margin_on="each"), _arcmix),
    "arcmix, small scale": (
        config.ArcFace(margin_on="each", scale=8, margin=0.2),
        lambda x, y, w: _arcmix(x, y, w, 8, 0.2),
    ),
    "supcon": (config.SupCon(), lambda x, y, w: _supcon(x, y, w, OWN)),
    "supcon of mixtures": (
        config.SupCon(positives="mixed", temperature=0.2),
        lambda x, y, w: _supcon(x, y, w, None, 0.2),
    ),
    "adaproj": (config.AdaProj(subspace_dim=3, trainable=True), lambda x, y, w: _adaproj(x, y, w, 3)),
}


def _example(options, dtype=torch.float64, soft: bool = True):
    torch.manual_seed(0)
    n_classes = 5
    loss = build_loss(options, D, n_classes).to(dtype)
    x = torch.randn(6, D, dtype=dtype)
    y = torch.eye(n_classes, dtype=dtype)[torch.arange(6) % n_classes]
    if soft:  # half of the clips are mixed
        y[::2] = torch.lerp(y[::2], y[::2].roll(1, 0), torch.rand(3, 1, dtype=dtype))
    return loss, x, y


def _centres(loss):
    """The class centres; zeros for a loss without."""
    return getattr(loss, "centres", torch.zeros(5, D))


def _value(loss, x, y):
    return loss_of(loss, x, y, torch.as_tensor(OWN, dtype=y.dtype))


def _arrays(*tensors):
    return [t.detach().double().numpy() for t in tensors]


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_loss_equals_its_formula(name, soft):
    options, formula = CASES[name]
    loss, x, y = _example(options, soft=soft)
    assert _value(loss, x, y).item() == pytest.approx(formula(*_arrays(x, y, _centres(loss))), rel=1e-9)
    loss, x, y = _example(options, dtype=torch.float32, soft=soft)
    found = _value(loss, x, y)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(formula(*_arrays(x, y, _centres(loss))), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_gradient_equals_a_finite_difference(name):
    options, formula = CASES[name]
    loss, x, y = _example(options)
    x.requires_grad_()
    _value(loss, x, y).backward()
    step = 1e-6
    bases = _arrays(x, y, _centres(loss))
    for position, grad in [(0, x.grad), *((2, p.grad) for p in loss.parameters())]:
        for index in [(0, 0), (3, 5), (2, 6)]:
            values = []
            for sign in (1, -1):
                moved = [b.copy() for b in bases]
                moved[position][index] += sign * step
                values.append(formula(*moved))
            assert grad[index].item() == pytest.approx(
                (values[0] - values[1]) / (2 * step), rel=1e-5, abs=1e-7
            )


def test_the_margin_lowers_the_logit_of_the_target_class_only():
    loss, x, y = _example(config.ArcFace(scale=8.0), soft=False)
    plain, _, _ = _example(config.ArcFace(scale=8.0, margin=0.0))
    assert loss(x, y) > plain(x, y)
    unit, directions = torch.tensor(_unit(x.numpy())), torch.tensor(_unit(_arrays(loss.centres)[0]))
    with torch.no_grad():
        # The ratios among other classes are unchanged; the target loses against each of them.
        gain = loss.log_probabilities(unit, directions, y) - plain.log_probabilities(unit, directions, y)
    for row, target in zip(gain.tolist(), y.argmax(dim=1).tolist(), strict=True):
        lost = row.pop(target)
        assert max(row) - min(row) < 1e-12
        assert lost < min(row)


@pytest.mark.parametrize("angle", [math.pi - 0.6, math.pi - 0.4, math.pi - 0.1])
def test_the_margin_follows_the_formula_beyond_180_degrees(angle):
    """A clip opposite to its class, for which angle + margin exceeds 180 degrees."""
    loss = build_loss(config.ArcFace(scale=8.0), 2, 3).double()
    rays = torch.tensor([0.0, 1.0, -0.7], dtype=torch.float64)
    loss.centres.data.copy_(torch.stack([rays.cos(), rays.sin()], dim=1))
    at = torch.tensor([angle], dtype=torch.float64, requires_grad=True)
    value = loss(torch.stack([at.cos(), at.sin()], dim=1), torch.eye(3, dtype=torch.float64)[:1])
    value.backward()

    def formula(angle):
        logits = np.array([np.cos(angle + 0.5), np.cos(angle - 1.0), np.cos(angle + 0.7)])
        return _cross_entropy(_softmax(8.0 * logits[None]), np.eye(3)[:1])

    assert value.item() == pytest.approx(formula(angle), rel=1e-9)
    slope = (formula(angle + 1e-6) - formula(angle - 1e-6)) / 2e-6
    assert at.grad.item() == pytest.approx(slope, rel=1e-5)


def test_scales_of_the_published_recipes():
    # 187 classes of 2023, with 16 sub-clusters 2992 centres; 225 of 2024.
    assert build_loss(config.AdaCos(), 4, 187).scale == pytest.approx(7.390, abs=5e-4)
    assert build_loss(config.AdaCos(), 4, 225).scale == pytest.approx(7.653, abs=5e-4)
    assert build_loss(config.SubclusterAdaCos(), 4, 187).scale == pytest.approx(11.318, abs=5e-4)
    assert build_loss(config.SubclusterAdaCos(), 4, 225).scale == pytest.approx(11.580, abs=5e-4)


def test_fixed_centres_are_no_parameters_but_are_saved():
    fixed = build_loss(config.SubclusterAdaCos(n_subclusters=2), 4, 3)
    learnt = build_loss(config.SubclusterAdaCos(n_subclusters=2, trainable=True), 4, 3)
    assert list(fixed.parameters()) == []
    assert [p.shape for p in learnt.parameters()] == [(6, 4)]
    assert list(fixed.state_dict()) == list(learnt.state_dict()) == ["centres"]


@pytest.mark.parametrize(
    ("n_classes", "options", "says"),
    [
        (2, config.AdaCos(), "2 classes.*subcluster"),
        (2, config.AdaCos(dynamic=True), "2 classes.*subcluster"),
        (2, config.AdaProj(), "2 classes.*subcluster"),
        (1, config.AdaCos(), "1 class"),
        (1, config.SubclusterAdaCos(), "1 class"),
        (1, config.ArcFace(), "1 class"),
        (1, config.SupCon(), "1 class"),
        (0, config.ArcFace(), "0 class"),
    ],
)
def test_too_few_classes_is_a_clear_error(n_classes, options, says):
    with pytest.raises(ValueError, match=says):
        build_loss(options, 4, n_classes)


def test_two_classes_with_subclusters_learn():
    assert build_loss(config.SubclusterAdaCos(n_subclusters=2), 4, 2).scale > 0
    build_loss(config.ArcFace(), 4, 2)


@pytest.mark.parametrize("name", CASES)
def test_losses_are_computed_in_float32_under_bf16_autocast(name):
    loss, x, y = _example(CASES[name][0], dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = _value(loss, x, y)
        half = _value(loss, x.bfloat16(), y)
    assert inside.dtype == half.dtype == torch.float32
    assert inside.item() == _value(loss, x, y).item()
    assert half.item() == _value(loss, x.bfloat16().float(), y).item()
    x = x.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _value(loss, x, y).backward()
    assert x.grad.dtype == torch.bfloat16
    assert x.grad.isfinite().all()
    assert x.grad.any()
    assert all(p.grad.isfinite().all() for p in loss.parameters())


@pytest.mark.parametrize("name", CASES)
def test_extreme_embeddings_stay_finite(name):
    loss, _, y = _example(CASES[name][0], dtype=torch.float32)
    on_a_centre = _centres(loss).detach()[:1] * 3
    x = torch.cat(
        [torch.zeros(1, D), torch.full((2, D), 1e20), torch.full((1, D), 1e-30), on_a_centre, -on_a_centre]
    )
    x.requires_grad_()
    value = _value(loss, x, y)
    value.backward()
    assert value.isfinite()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in loss.parameters())


@pytest.mark.parametrize("n_clips", [1, 3])
def test_clips_without_another_one_of_their_class_add_nothing_to_supcon(n_clips):
    loss = build_loss(config.SupCon(), D, 5)
    x = torch.randn(n_clips, D, requires_grad=True)
    value = loss(x, torch.eye(5)[:n_clips])
    value.backward()
    assert value.item() == 0
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_supcon_pulls_alike_clips_together():
    """Two clips of a class and one of another; each of the two adds log(1 + exp((cos far - cos near) / T))."""
    loss = build_loss(config.SupCon(temperature=0.5), 2, 3)
    angles = torch.tensor([0.0, 0.4, 2.0], dtype=torch.float64)
    x, y = torch.stack([angles.cos(), angles.sin()], dim=1), torch.eye(3, dtype=torch.float64)[[0, 0, 1]]
    near = math.cos(0.4)
    terms = [math.log1p(math.exp((math.cos(far) - near) / 0.5)) for far in (2.0, 1.6)]
    assert loss(x, y).item() == pytest.approx(sum(terms) / 3, rel=1e-12)


def test_margins_of_mixtures_equal_arcface_without_a_mixture():
    found = [
        _value(*_example(config.ArcFace(margin_on=on), soft=False)).item() for on in ("target", "own", "each")
    ]
    assert found == pytest.approx(found[:1] * 3, rel=1e-12)


# ----------------------------------------------------------------------------------------- dynamic scale


def _next_scale(x, y, w, k, scale):
    """The next scale by loops over clips and centres, straight from the rule."""
    cosine = np.clip(_unit(x) @ _unit(w).T, -1, 1)
    sums, angles = [], []
    for b in range(len(x)):
        total = 0.0
        for c in range(y.shape[1]):
            for centre in range(c * k, (c + 1) * k):
                if y[b, c] == 0:
                    total += np.exp(scale * cosine[b, centre])
                if y[b, c] == 1:
                    angles.append(np.arccos(cosine[b, centre]))
        sums.append(total)
    if not angles:
        return scale
    return max(MIN_SCALE, np.log(np.mean(sums)) / np.cos(min(np.pi / 4, np.median(angles))))


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("soft", [False, True])
def test_the_dynamic_scale_follows_its_rule(k, soft):
    options = config.SubclusterAdaCos(n_subclusters=k, trainable=True, dynamic=True)
    loss, x, y = _example(options, soft=soft)
    scale = np.sqrt(2) * np.log(5 * k - 1)
    assert loss.scale.item() == pytest.approx(scale)
    # The clips approach their classes: the angles fall below 45 degrees.
    near = loss.centres.detach()[y.argmax(1) * k] * 4
    for part in (0.0, 0.5, 1.0):
        moved = torch.lerp(x, near, part)
        arrays = _arrays(moved, y, loss.centres)
        scale = _next_scale(*arrays, k, scale)
        assert loss(moved, y).item() == pytest.approx(_adacos(*arrays, k, scale), rel=1e-6)
        assert loss.scale.item() == pytest.approx(scale, rel=1e-6)
    assert list(loss.state_dict()) == ["centres", "scale"], "a resumed training goes on with it"
    loss.eval()(x, y)
    assert loss.scale.item() == pytest.approx(scale, rel=1e-6), "only training moves it"


def test_the_dynamic_scale_does_not_change_in_a_batch_of_mixed_clips():
    loss, x, y = _example(config.AdaCos(dynamic=True))
    before = loss.scale.item()
    loss(x, torch.full_like(y, 1 / y.shape[1]))
    assert loss.scale.item() == before


def test_losses_of_two_batches_pass_their_gradients_under_a_dynamic_scale():
    def gradients(*groups):
        loss, x, y = _example(config.AdaCos(trainable=True, dynamic=True))
        x.requires_grad_()
        for group in groups:
            sum(loss(factor * x.roll(factor, 1), y) for factor in group).backward()
        return x.grad, loss.centres.grad

    for together, apart in zip(gradients((1, 2)), gradients((1,), (2,)), strict=True):
        torch.testing.assert_close(together, apart)


def test_the_dynamic_scale_has_a_stated_minimum():
    """Three classes with all other centres on the far side, for which the rule gives a negative scale."""
    loss = AdaCosLoss(2, 3, trainable=False, dynamic=True)
    angles = torch.tensor([0.0, 0.9, 1.1]) * math.pi
    loss.centres.copy_(torch.stack([angles.cos(), angles.sin()], dim=1))
    for _ in range(5):
        value = loss(torch.tensor([[1.0, 0.0]]), torch.eye(3)[:1])
    assert loss.scale.item() == MIN_SCALE
    assert value.isfinite()


def test_the_fixed_scale_does_not_change():
    loss, x, y = _example(config.AdaCos(trainable=True))
    before = loss.scale
    loss(x, y)
    assert loss.scale == before
