"""Augmentation, and the heads for augmented clips: distributions of the choices, and formulas clip by clip."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_features import _numpy_spectrogram

from asdray.config import losses as config
from asdray.config.frontend import SpecAugment
from asdray.frontends.augment import Exchange, draw_exchange, draw_masks, draw_mixup, mask, mix
from asdray.frontends.heads import build_head, build_loss, exchanged


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


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_mixup_shares_follow_a_beta_distribution(alpha):
    _, share = draw_mixup(np.random.default_rng(0), 20_000, 1.0, alpha)
    assert share.dtype == np.float32
    assert share.mean() == pytest.approx(0.5, abs=0.01)
    assert share.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)


@pytest.mark.parametrize("alpha", [None, 0.5])
def test_one_share_per_batch(alpha):
    rng = np.random.default_rng(0)
    shares = [set(draw_mixup(rng, 50, 0.5, alpha, "batch")[1].tolist()) for _ in range(3)]
    assert all(len(values) == 2 and 1.0 in values for values in shares), "mixed clips and unmixed ones"
    assert len(set.union(*shares)) == 4, "every batch has another share"


# ----------------------------------------------------------------------------------------- SpecAugment


@settings(max_examples=30, deadline=None)
@given(
    n_samples=st.integers(1024, 40_000),
    probability=st.floats(0, 1),
    longest=st.integers(0, 700),
    seed=st.integers(0, 99),
)
def test_masks_lie_inside_the_spectrogram(n_samples, probability, longest, seed):
    masks = draw_masks(np.random.default_rng(seed), 50, n_samples, probability, longest, longest)
    for first, width, length in ((0, 1, n_samples // 256 + 1), (2, 3, 513)):
        assert (masks[:, first] >= 0).all()
        assert (masks[:, first] + masks[:, width] <= length).all()
        assert (masks[:, width] <= longest).all()


def test_masks_of_both_kinds_are_independent_and_cover_the_spectrogram():
    masks = draw_masks(np.random.default_rng(0), 20_000, 160_000, 0.5, 80, 80)
    time, frequency = masks[:, 1] > 0, masks[:, 3] > 0
    assert time.mean() == pytest.approx(0.5 * 80 / 81, abs=0.02)
    assert (time & frequency).mean() == pytest.approx(0.25, abs=0.02)
    assert masks[:, 1].max() == masks[:, 3].max() == 80
    assert (masks[:, 0] + masks[:, 1]).max() == 626
    assert (masks[:, 2] + masks[:, 3]).max() == 513


def test_the_widest_mask_of_the_defaults_is_torchaudios():
    """torchaudio's width is floor(80 u) with u below 1; ASDKit's parameter is 80."""
    from torchaudio.functional import mask_along_axis_iid

    torch.manual_seed(0)
    theirs = mask_along_axis_iid(torch.ones(4000, 1, 600, 3), mask_param=80, mask_value=0, axis=2)
    widest = int((theirs[:, 0, :, 0] == 0).sum(dim=1).max())
    assert widest == SpecAugment().max_frames == SpecAugment().max_bins == 79


def test_masked_frames_and_bins_are_silent_and_the_rest_is_unchanged():
    rng = np.random.default_rng(0)
    waves = torch.from_numpy(rng.uniform(-1, 1, (3, 16_000)).astype(np.float32))
    masks = torch.tensor([[20, 12, 0, 0], [0, 0, 100, 60], [7, 0, 9, 0]])
    found = mask(waves, masks)
    assert found.shape == waves.shape
    assert torch.equal(found[2], waves[2]), "without a mask not a bit changes"
    # Samples outside of masked frames are unchanged, samples inside of masked frames only are zero.
    reached = torch.zeros(16_000 + 1024, dtype=torch.bool)
    kept = torch.zeros(16_000 + 1024, dtype=torch.bool)
    for t in range(16_000 // 256 + 1):
        (reached if 20 <= t < 32 else kept)[t * 256 : t * 256 + 1024] = True
    reached, kept = reached[512:-512], kept[512:-512]
    torch.testing.assert_close(found[0, ~reached], waves[0, ~reached], atol=1e-6, rtol=0)
    assert (~kept).sum() > 1500
    assert found[0, ~kept].abs().max() < 1e-6
    # The band is silent in the spectrogram, bins far from the band are unchanged.
    before, after = (_numpy_spectrogram(w[1].double().numpy(), 1024, 256) for w in (waves, found))
    assert np.abs(after[102:158, 2:-2]).max() < 0.02 * before[102:158].max()
    np.testing.assert_allclose(after[:90, 2:-2], before[:90, 2:-2], atol=1e-3)


# ------------------------------------------------------------------------------- FeatEx and subspace loss


@settings(max_examples=30, deadline=None)
@given(
    size=st.integers(1, 20), n_parts=st.integers(2, 4), probability=st.floats(0, 1), seed=st.integers(0, 99)
)
def test_exchanges_permute_all_parts_but_the_first(size, n_parts, probability, seed):
    swapped, source = draw_exchange(np.random.default_rng(seed), size, n_parts, probability)
    assert (swapped.shape, source.shape) == ((size,), (size, n_parts))
    own = torch.arange(size)
    assert torch.equal(source[:, 0], own)
    assert torch.equal(source[~swapped], own[~swapped, None].expand(-1, n_parts))
    targets = torch.eye(3)[own % 3]
    _, y = exchanged([torch.zeros(size, 1)] * n_parts, targets, Exchange(swapped, source))
    assert y.shape == (size, 3 * (n_parts + 1))
    torch.testing.assert_close(y.sum(1), torch.ones(size))


def test_every_part_is_exchanged_by_another_permutation():
    swapped, source = draw_exchange(np.random.default_rng(0), 1000, 3, 1.0)
    assert swapped.all()
    assert sorted(source[:, 1].tolist()) == sorted(source[:, 2].tolist()) == list(range(1000))
    assert (source[:, 1] == source[:, 2]).float().mean() < 0.01
    assert draw_exchange(np.random.default_rng(0), 1000, 3, 0.5).swapped.float().mean() == pytest.approx(
        0.5, abs=0.05
    )


def _parts():
    torch.manual_seed(1)
    parts = [torch.randn(4, 3), torch.randn(4, 2), torch.randn(4, 3)]
    targets = torch.tensor([[1.0, 0], [0, 1], [0.3, 0.7], [1, 0]])
    return parts, targets


def test_exchanged_clip_by_clip():
    parts, y = _parts()
    exchange = Exchange(
        torch.tensor([False, True, True, False]), torch.tensor([[0, 0, 0], [1, 3, 2], [2, 2, 0], [3, 3, 3]])
    )
    found, targets = exchanged(parts, y, exchange)
    none = torch.zeros(2)
    for b, (origin, expected) in enumerate(
        [
            ((0, 0, 0), [y[0], none, none, none]),
            ((1, 3, 2), [none, y[1] / 3, y[3] / 3, y[2] / 3]),
            ((2, 2, 0), [none, y[2] / 3, y[2] / 3, y[0] / 3]),  # a clip may get its own part back
            ((3, 3, 3), [y[3], none, none, none]),
        ]
    ):
        assert torch.equal(found[b], torch.cat([parts[m][origin[m]] for m in range(3)]))
        torch.testing.assert_close(targets[b], torch.cat(expected))


def test_heads_are_weighted_sums_of_losses():
    parts, y = _parts()
    torch.manual_seed(2)
    subspace = build_head(config.SubspaceLoss(weight=0.5), [3, 2, 3], 2)
    assert [loss.centres.shape for loss in subspace.losses] == [(32, 3), (32, 2), (32, 3)]
    assert len(list(subspace.parameters())) == 3, "learnt by default"
    expected = 0.5 * sum(loss(part, y) for loss, part in zip(subspace.losses, parts, strict=True))
    torch.testing.assert_close(subspace(parts, y, y, None), expected)

    featex = build_head(config.FeatEx(weight=2.0, loss=config.AdaCos()), [3, 2, 3], 2)
    assert featex.loss.centres.shape == (2 * 4, 8)
    exchange = draw_exchange(np.random.default_rng(0), 4, 3, 0.5)
    expected = 2 * featex.loss(*exchanged(parts, y, exchange))
    torch.testing.assert_close(featex(parts, y, y, exchange), expected)
    assert build_loss(config.AdaCos(), 8, 8).scale == featex.loss.scale
