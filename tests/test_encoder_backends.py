"""Backends of systems with frozen encoders, against outputs of the original code in `golden/encoders`.

60 source and 10 target clips, 30 test clips; 24 dimensions, or 8 bands of 12.
"""

import re
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from asdray.backends import Features, score_machine
from asdray.backends.mem_mixup import TargetBank
from asdray.backends.neighbours import Density, References
from asdray.backends.varmin import alpha_of
from asdray.config.backend import (
    Beam,
    Gmm,
    KMeans,
    Knn,
    KnnRescale,
    Ldn,
    LdnDomain,
    Mahalanobis,
    MemMixup,
    VarMin,
    backend_id,
)
from asdray.config.sweep import check_backends
from asdray.evaluation.tables import backend_labels

GOLDEN = np.load(Path(__file__).parent / "golden" / "encoders" / "backends.npz")
DOMAIN = ["source"] * 60 + ["target"] * 10
METRICS = {"euclid": "euclidean", "l2": "euclidean", "cosine": "cosine"}
Z = {"min": "none", "z_test": "test", "z_train": "train", "z_train_bank": "train_bank"}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    with threadpool_limits(1):
        yield


def run(backend, train, test, domain=DOMAIN):
    return score_machine(
        backend, Features(train, {}, [0] * len(train)), domain, Features(test, {}, [0] * len(test))
    )


def single(backend):
    return run(backend, GOLDEN["train"], GOLDEN["test"])[1]


def banded(backend):
    return run(backend, GOLDEN["train_bands"], GOLDEN["test_bands"])[1]


def one_by_one(backend):
    """(30, 8): each band by itself."""
    bands = [run(backend, GOLDEN["train_bands"][:, b], GOLDEN["test_bands"][:, b])[1] for b in range(8)]
    return np.stack(bands, axis=1)


BANDS = [
    Mahalanobis(),
    Mahalanobis(normalize=False, combine="min"),
    Mahalanobis(covariance="domain", shrinkage=0.1),
    Mahalanobis(shrinkage=0.0),
    Gmm(pca=4),
    Gmm(pca=4, covariance_type="diag", combine="min"),
]


@pytest.mark.parametrize("backend", BANDS, ids=backend_id)
@pytest.mark.parametrize("kind", ["plain", "few", "equal", "flat"])
def test_bands_together_have_the_scores_of_each_by_itself(backend, kind):
    """Several bands take faster ways to the same numbers."""
    train, test = GOLDEN["train_bands"].astype(np.float64), GOLDEN["test_bands"].astype(np.float64)
    part = np.r_[0:2, 60:62] if kind == "few" else np.arange(70)  # fewer clips than directions
    if kind == "equal":
        train[:, 3] = train[0, 3]
    if kind == "flat":
        train[:, 3, 2:] = 0  # fewer directions with a variance than the mixture takes
    domain = [DOMAIN[i] for i in part]
    together = run(backend, train[part], test, domain)
    alone = [run(backend, train[part, b], test[:, b], domain) for b in range(8)]
    combine = np.min if backend.combine == "min" else np.mean
    for found, of_bands in zip(together, zip(*alone, strict=True), strict=True):
        np.testing.assert_allclose(found, combine(of_bands, axis=0), rtol=1e-6)


def density(metric, k, array="train", band=slice(None)):
    x = GOLDEN[array][:, band].astype(np.float64)
    return Density(References(x, METRICS[metric]), k)


def single_domain(part):
    """The distance to the only domain with clips."""
    return run(MemMixup(z="none"), GOLDEN["train"][part], GOLDEN["test"], DOMAIN[part])[1]


def to_target_bank(n):
    at = {"source": np.arange(60), "target": np.arange(60, 70)}
    among = References(GOLDEN["train"].astype(np.float64), "euclidean")
    bank = TargetBank(among, at, MemMixup(n_sources=n))
    return np.concatenate([bank.distances(d).min(1) for _, d in among.to(GOLDEN["test"].astype(np.float64))])


def quarter(metric, form):
    return 0.25 if (metric, form) == ("euclid", "difference") else 1.0


# Pattern of the name of an array -> the same numbers of ours, from the pattern's groups.
CASES = {
    r"knn_(cosine|euclid)_(\d+)": lambda m, k: single(Knn(metric=METRICS[m], n_neighbors=int(k))),
    r"kmeans16_cosine": lambda: single(KMeans()),
    r"asdkit_ldn_(cosine|euclid)_(\d+)": lambda m, k: single(
        KnnRescale(metric=METRICS[m], n_reference_neighbors=int(k))
    ),
    r"merl_(cosine)_none": lambda m: single(Beam()),
    # Of Euclidean distances the original takes a quarter.
    r"merl_(euclid)_none": lambda m: single(Knn(metric="euclidean")) / 4,
    r"merl_(cosine|euclid)_(ratio|difference)_(\d+)": lambda m, form, k: (
        quarter(m, form) * single(Ldn(metric=METRICS[m], form=form, n_reference_neighbors=int(k)))
    ),
    r"merl_(cosine|euclid)_(ratio|difference)_r(.+)": lambda m, form, r: (
        quarter(m, form) * single(Ldn(metric=METRICS[m], form=form, r=float(r)))
    ),
    r"domain_ldn_(l2|cosine)_(sum|mean)": lambda m, how: single(LdnDomain(metric=METRICS[m], reduce=how)),
    r"domain_ldn_l2_sum_k4_k4": lambda: single(LdnDomain(n_source=4, n_target=4)),
    r"varmin_cosine_(\d+)": lambda k: single(VarMin(n_neighbors=int(k))),
    r"varmin_cosine_\d+_raw": lambda: single(Beam()),
    r"varmin_cosine_(\d+)_density": lambda k: density("cosine", int(k)).own,
    r"varmin_cosine_(\d+)_alpha": lambda k: alpha_of(density("cosine", int(k))),
    r"varmin_formula_(euclid|cosine)_(difference|log)_(\d+)": lambda m, form, k: single(
        VarMin(metric=METRICS[m], form=form, n_neighbors=int(k))
    ),
    r"varmin_formula_(euclid|cosine)_difference_(\d+)_alpha": lambda m, k: alpha_of(density(m, int(k))),
    r"varmin_formula_(euclid|cosine)_log_(\d+)_alpha": lambda m, k: alpha_of(density(m, int(k)), np.log),
    r"beam_raw": lambda: banded(Beam()),
    r"beam_band_raw": lambda: one_by_one(Beam()),
    r"beam_varmin_(\d+)": lambda k: banded(Beam(varmin=int(k))),
    r"beam_band_varmin_(\d+)": lambda k: one_by_one(VarMin(n_neighbors=int(k))),
    r"beam_alpha_(\d+)": lambda k: [
        alpha_of(density("cosine", int(k), "train_bands", band)) for band in range(8)
    ],
    r"beam_coupled": lambda: banded(Beam(combine="join")),
    r"genrep_mix(\d+)_(min|z_\w+)": lambda n, z: single(MemMixup(n_sources=int(n), z=Z[z])),
    r"genrep_mix\d+_source": lambda: single_domain(slice(0, 60)),
    r"genrep_mix(\d+)_target": lambda n: to_target_bank(int(n)),
    r"knn_cosine_smote": lambda: single(Knn(smote_ratio=0.2)),
}


ARRAYS = [k for k in GOLDEN.files if not k.startswith(("train", "test"))]


@pytest.mark.parametrize("key", ARRAYS)
def test_every_array_of_the_original_code_is_met(key):
    ((make, groups),) = [(v, m.groups()) for p, v in CASES.items() if (m := re.fullmatch(p, key))]
    alpha, genrep = "alpha" in key, "genrep" in key
    atol, rtol = (1e-4, 0) if alpha else (2e-5, 0) if genrep else (2e-6, 1e-5)
    np.testing.assert_allclose(np.ravel(make(*groups)), np.ravel(GOLDEN[key]), rtol=rtol, atol=atol)


NEIGHBOURS = [
    KnnRescale(n_neighbors=2),
    Ldn(r=0.5, n_neighbors=3),
    Ldn(r=1.0, form="difference", metric="euclidean"),
    Ldn(r=0.0),
    LdnDomain(),
    LdnDomain(n_source=3, n_target=2, reduce="mean", metric="cosine"),
    VarMin(),
    VarMin(n_neighbors=1, metric="euclidean", form="log"),
    VarMin(n_neighbors=100),
    Beam(),
    Beam(varmin=2),
    Beam(varmin=2, combine="join"),
    *[MemMixup(n_sources=n, z="train_bank") for n in (0, 5, None)],
    MemMixup(n_sources=1, z="train"),
    MemMixup(n_sources=2, z="none"),
    MemMixup(n_sources=3, z="train_bank", normalize=True, weight=0.5, combine="min"),
]


@pytest.mark.parametrize("backend", NEIGHBOURS, ids=lambda b: f"{b.name}-{backend_id(b)[-4:]}")
def test_a_training_clip_is_scored_exactly_as_if_it_did_not_exist(backend):
    """300 clips are more than one chunk of distances; the clips with other neighbours stand in both."""
    rng = np.random.default_rng(0)
    train = rng.normal(size=(300, 2, 3)) + rng.integers(0, 3, size=(300, 1, 1))
    domain = np.where(np.arange(300) % 25 == 7, "target", "source")
    own, _ = run(backend, train, train[:1], list(domain))
    for i in (7, 255, 256, 282):
        rest = np.delete(np.arange(300), i)
        new = run(backend, train[rest], train[i : i + 1], list(domain[rest]))[1][0]
        assert own[i] == pytest.approx(new, rel=1e-9, abs=1e-12), (i, domain[i])


def test_a_domain_of_few_clips_is_scaled_like_the_other():
    train, test = GOLDEN["train"], GOLDEN["test"]
    part = np.r_[0:60, 60:63]
    domain = [DOMAIN[i] for i in part]
    scaled = run(MemMixup(n_sources=0), train[part], test, domain)[1]
    plain = run(MemMixup(n_sources=0, z="none"), train[part], test, domain)[1]
    distance = run(Knn(metric="euclidean"), train[:60], train[:60], DOMAIN[:60])[0]
    np.testing.assert_allclose(scaled, (plain - distance.mean()) / distance.std())
    for backend, message in [
        (MemMixup(), "2 source and 3 target training clips are too few: mem_mixup with z train needs 4"),
        (LdnDomain(), "2 source and 2 target training clips are too few: ldn_domain needs 3"),
    ]:
        few = np.r_[0:2, 60 : 63 if isinstance(backend, MemMixup) else 62]
        with pytest.raises(ValueError, match=message):
            run(backend, train[few], test, [DOMAIN[i] for i in few])


def test_scores_by_test_clips_are_marked():
    def labels(*items):
        backends = check_backends(list(items), "x")
        return list(backend_labels({backend_id(b): b.model_dump() for b in backends}).values())

    marked = "transductive mem_mixup"
    assert labels({"name": "mem_mixup", "z": "test"}) == [marked]
    assert labels({"name": "mem_mixup", "z": ["train", "test"]}) == [
        "mem_mixup(z=train)",
        f"{marked}(z=test)",
    ]
    # What the label says is true: with other test clips, a clip has another score.
    alone = run(MemMixup(z="test"), GOLDEN["train"], GOLDEN["test"][:20])[1]
    assert np.abs(alone - single(MemMixup(z="test"))[:20]).min() > 1e-3
    for z in ("train", "train_bank", "none"):
        alone = run(MemMixup(z=z), GOLDEN["train"], GOLDEN["test"][:20])[1]
        np.testing.assert_allclose(alone, single(MemMixup(z=z))[:20], rtol=1e-9)


def test_two_densities_at_once_are_refused():
    with pytest.raises(ValueError, match="leave n_reference_neighbors out, or r"):
        check_backends([{"name": "ldn", "r": 0.9, "n_reference_neighbors": 4}], "--backend")
    assert backend_id(Ldn(r=None)) == backend_id(Ldn())
