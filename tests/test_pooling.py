"""Poolings against outputs of the original code and formulas written out, which `golden/encoders` holds."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from asdray.config.base import Config
from asdray.config.files import validate
from asdray.config.pooling import Poolings
from asdray.frontends.pooling import deviation_weights, pool

GOLDEN = np.load(Path(__file__).parent / "golden" / "encoders" / "pools.npz")
TOKENS = torch.from_numpy(GOLDEN["tokens"])[None]  # 40 times, 8 bands, 16 dimensions


class Holder(Config):
    poolings: Poolings


def made(*items):
    return validate(Holder, {"poolings": list(items)}, "x").poolings


# Array of the original code -> the pooling, per band.
CASES = {
    "mean": {"name": "mean"},
    "max": {"name": "max"},
    **{f"gwrp_{r:g}": {"name": "gwrp", "r": r} for r in (0, 0.4, 0.9, 1)},
    **{f"gem_{p}": {"name": "gem", "p": p} for p in (1, 3, 10)},
    **{
        f"rdp_{f}_{g}": {"name": "rdp", "form": f, "gamma": g}
        for f in ("band", "joint")
        for g in (0, 1, 4, 8)
    },
    **{f"rdp_band_power_{g}": {"name": "rdp", "form": "power", "gamma": g} for g in (0, 1, 4, 8, 19)},
    **{f"rdp_minmax_joint_{g}": {"name": "rdp", "form": "minmax", "gamma": g} for g in (0, 1, 4, 8, 19)},
    **{
        f"rdp_gem_{f}_{g}_3": {"name": "rdp_gem", "form": f, "gamma": g, "p": 3}
        for f in ("band", "joint")
        for g in (4, 8, 16)
    },
    "kim_gem_3": {"name": "gem", "p": 3, "floor": 1e-12},
    "kim_rdp_1": {"name": "rdp", "gamma": 1, "form": "minmax"},
    "kim_rdp_gem_1_3": {"name": "rdp_gem", "gamma": 1, "p": 3, "form": "minmax", "floor": 1e-12},
}


@pytest.mark.parametrize("key", CASES)
def test_every_pooling_of_bands_is_the_original_one(key):
    (pooling,) = made({**CASES[key], "tokens": "bands"})
    exact = pool(TOKENS.double(), pooling)[0].numpy()
    np.testing.assert_allclose(exact, GOLDEN[key], rtol=0, atol=1e-6)
    found = pool(torch.cat([TOKENS * 0.1, TOKENS]), pooling)[1]  # a clip's result depends on no other clip
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), GOLDEN[key], rtol=0, atol=5e-6)


def test_every_array_has_a_case():
    with_weights = {f"rdp_band_{g}_weights" for g in (0, 1, 4, 8)}
    assert set(GOLDEN.files) == set(CASES) | with_weights | {"tokens"}


@pytest.mark.parametrize("gamma", [0, 1, 4, 8])
def test_the_weights_of_the_deviation_are_the_original_ones(gamma):
    found = deviation_weights(TOKENS.double(), gamma, "band")[0]
    np.testing.assert_allclose(found, GOLDEN[f"rdp_band_{gamma}_weights"], rtol=0, atol=1e-6)


ALL = made(
    "mean", "max", "mean_std", {"name": "gwrp", "r": [0, 0.3, 0.99, 1]}, {"name": "gem", "p": [0.5, 10]},
    {"name": "rdp", "form": ["band", "minmax", "power"]}, {"name": "rdp_gem", "p": 10},
)  # fmt: skip


@pytest.mark.parametrize("pooling", ALL, ids=lambda p: p.label)
def test_all_tokens_are_one_line_whatever_their_order(pooling):
    line = TOKENS.reshape(1, 320, 1, 16)
    (banded,) = made({**pooling.model_dump(), "tokens": "bands"})
    expected = pool(line, banded)[:, 0]
    torch.testing.assert_close(pool(TOKENS, pooling), expected)
    shuffled = line[:, torch.randperm(320, generator=torch.Generator().manual_seed(0))]
    torch.testing.assert_close(pool(shuffled, pooling), expected, atol=2e-6, rtol=1e-5)
    assert expected.shape == (1, 32 if pooling.name == "mean_std" else 16)


@pytest.mark.parametrize("pooling", ALL, ids=lambda p: p.label)
def test_no_pooling_overflows_or_divides_by_zero(pooling):
    for value in (0.0, -1.0, 1e-30, 3e4):
        found = pool(torch.full((2, 3, 4, 5), value), pooling)[:, :5]
        expected = max(value, 0.0) if "gem" in pooling.name else value
        torch.testing.assert_close(found, torch.full((2, 5), expected), rtol=1e-5, atol=0)
    burst = torch.zeros(1, 400, 8, 2)
    burst[0, 7, 3] = 1e30
    if "std" not in pooling.name and "rdp" not in pooling.name:
        assert pool(burst, pooling).isfinite().all()
    assert pool(burst / 1e15, pooling).isfinite().all()


def test_mean_and_deviation_of_half_precision_are_taken_in_float32():
    x = torch.randn(2, 50, 8, 6, generator=torch.Generator().manual_seed(1)).bfloat16()
    (pooling,) = made({"name": "mean_std", "tokens": "bands"})
    found, exact = pool(x, pooling), x.double().numpy()
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found[..., :6], exact.mean(1), atol=1e-6)
    np.testing.assert_allclose(found[..., 6:], exact.std(1), atol=1e-6)


def test_class_tokens_are_passed_on():
    (pooling,) = made("cls")
    summary = torch.randn(1, 16)
    assert pool(TOKENS, pooling, summary) is summary
    with pytest.raises(ValueError, match="no class token"):
        pool(TOKENS, pooling)


def test_lists_of_values_expand_and_labels_say_what_differs():
    found = made(
        "mean", "cls",
        {"name": "mean", "tokens": "bands"},
        {"name": "gwrp", "r": 0.4},
        {"name": "rdp", "gamma": [4, 8.0], "tokens": "bands"},
        {"name": "rdp", "gamma": 8, "form": ["joint", "minmax"], "tokens": "bands"},
        {"name": "rdp_gem", "gamma": 10, "p": 3},
        {"name": "gem", "p": 2.5, "floor": [0, 1e-12]},
    )  # fmt: skip
    assert [pooling.label for pooling in found] == [
        "mean", "cls", "bands_mean", "gwrp_0.4", "bands_rdp_4", "bands_rdp_8", "bands_rdp_joint_8",
        "bands_rdp_minmax_8", "rdp_gem_10_3", "gem_2.5", "gem_2.5_floor_1e-12",
    ]  # fmt: skip
    holder = validate(Holder, {"poolings": "mean"}, "x")
    assert validate(Holder, json.loads(holder.model_dump_json()), "x") == holder


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["mean", {"name": "mean"}], "names 'mean' twice"),
        (["gwpr"], "gwpr"),
        ([{"name": "gwrp", "r": 1.5}], "1.5"),
        ([{"name": "rdp", "form": "joint"}], "choose tokens bands"),
        ([], "poolings"),
    ],
)
def test_bad_poolings_are_one_message(items, message):
    with pytest.raises(ValueError, match=message):
        made(*items)
