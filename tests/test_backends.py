"""Backends against slow implementations of their formulas."""

import sys
import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.cluster import KMeans as SklearnKMeans
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from asdray.backends import Features, score_machine
from asdray.backends.density import local_density
from asdray.backends.detectors import seeded
from asdray.backends.embeddings import held_out
from asdray.backends.gaussian import gmm, mahalanobis
from asdray.backends.kmeans import kmeans
from asdray.backends.knn import knn
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
    Own,
    Pyod,
    Recon,
    VarMin,
    backend_id,
)
from asdray.config.sweep import check_backends
from asdray.evaluation.tables import backend_labels


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """One BLAS thread, as in workers: two waiting threads make tiny fits a hundred times slower."""
    with threadpool_limits(1):
        yield


DEFAULTS = ["knn", "kmeans", {"name": "knn", "smote_ratio": 0.2}, "knn_rescale"]
"""The four of a benchmark."""

EVERY = [
    Knn(),
    Knn(n_neighbors=3, metric="euclidean"),
    Knn(smote_ratio=0.5),
    Knn(n_neighbors=2, metric="euclidean", smote_ratio=1.0, smote_neighbors=4),
    KMeans(n_clusters=3),
    KMeans(metric="euclidean"),
    KnnRescale(),
    KnnRescale(n_neighbors=2, n_reference_neighbors=1, metric="euclidean"),
    Ldn(),
    Ldn(form="difference", n_reference_neighbors=4, n_neighbors=2),
    Ldn(r=0.9),
    LdnDomain(),
    LdnDomain(n_source=3, n_target=2, reduce="mean", metric="cosine"),
    VarMin(),
    VarMin(n_neighbors=1, metric="euclidean", form="log"),
    Beam(),
    Beam(varmin=2),
    MemMixup(),
    MemMixup(n_sources=5, z="train_bank", normalize=True),
    MemMixup(n_sources=0, z="test"),
    MemMixup(n_sources=2, z="none"),
    Mahalanobis(),
    Mahalanobis(covariance="domain", shrinkage=0.0, normalize=False),
    Gmm(),
    Gmm(pca=None, n_components=2, normalize=False),
    Gmm(pca=1, covariance_type="tied"),
    Gmm(n_components=3, covariance_type="diag"),
    Gmm(n_components=3, covariance_type="spherical"),
]


def brute(references, domain, query, k, metric, skip=None):
    """The score of one query, by the formula of kNN."""

    def unit(x):
        return x / max(np.linalg.norm(x), 1e-12) if metric == "cosine" else x

    means = []
    for name in ("source", "target"):
        distances = sorted(
            np.linalg.norm(unit(query) - unit(r))
            for i, (r, d) in enumerate(zip(references, domain, strict=True))
            if d == name and i != skip
        )
        if distances:
            means.append(np.mean(distances[:k]))
    return min(means) / 2 if metric == "cosine" else min(means)


def data(seed, n=40, m=15, dim=6, n_target=5, scale=1.0):
    rng = np.random.default_rng(seed)
    references = scale * rng.normal(size=(n, dim))
    queries = scale * rng.normal(size=(m, dim))
    domain = np.array(["target"] * n_target + ["source"] * (n - n_target))
    return references, domain[rng.permutation(n)], queries


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, 8),
    metric=st.sampled_from(["cosine", "euclidean"]),
    n_target=st.sampled_from([0, 1, 3, 20, 40]),
    scale=st.sampled_from([1e-3, 1.0, 1e4]),
)
def test_knn_is_its_formula(seed, k, metric, n_target, scale):
    references, domain, queries = data(seed, n_target=n_target, scale=scale)
    queries[0] = references[3]
    queries[1] = references[3] * (1 + 1e-9)
    found = knn(references, domain, queries, Knn(n_neighbors=k, metric=metric))
    expected = [brute(references, domain, q, k, metric) for q in queries]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12 * scale)
    own = knn(references, domain, references, Knn(n_neighbors=k, metric=metric), leave_one_out=True)
    expected = [brute(references, domain, r, k, metric, skip=i) for i, r in enumerate(references)]
    np.testing.assert_allclose(own, expected, rtol=1e-9, atol=1e-12 * scale)


def test_cosine_is_half_the_chord_and_blind_to_length():
    a, b = np.array([[1.0, 0.0]]), np.array([[1.0, 1.0], [0.0, 3.0], [-2.0, 0.0], [5.0, 0.0]])
    found = knn(a, np.array(["source"]), b)
    cos = np.array([np.sqrt(0.5), 0, -1, 1])
    np.testing.assert_allclose(found, np.sqrt((1 - cos) / 2), atol=1e-15)
    np.testing.assert_allclose(knn(7 * a, np.array(["source"]), 1e5 * b), found, atol=1e-15)


def test_identical_and_nearly_identical_embeddings_keep_their_digits():
    rng = np.random.default_rng(0)
    references = (1e3 + rng.normal(size=(300, 64))).astype(np.float32)
    domain = np.array(["source"] * 290 + ["target"] * 10)
    assert (knn(references, domain, references, Knn(metric="euclidean")) == 0).all()
    assert (knn(references, domain, references) == 0).all()
    moved = references.astype(np.float64)
    moved[:, 0] += 1e-6
    np.testing.assert_allclose(knn(references, domain, moved, Knn(metric="euclidean")), 1e-6, rtol=1e-3)
    same = np.ones((20, 4), dtype=np.float32)
    assert (knn(same, domain[:20], same, Knn(n_neighbors=4), leave_one_out=True) == 0).all()
    assert (knn(np.zeros((3, 4)), domain[:3], np.zeros((2, 4))) == 0).all()


def test_leave_one_out_with_few_references():
    references = np.array([[0.0], [1.0], [5.0]])
    one_target = np.array(["source", "source", "target"])
    found = knn(
        references, one_target, references, Knn(n_neighbors=4, metric="euclidean"), leave_one_out=True
    )
    # The only target clip is compared with the source clips alone.
    np.testing.assert_allclose(found, [1.0, 1.0, 4.5])
    with pytest.raises(ValueError, match="1 training clips are too few"):
        knn(references[:1], one_target[:1], references[:1], leave_one_out=True)
    with pytest.raises(ValueError, match="0 training clips are too few"):
        knn(references[:0], one_target[:0], references)


def test_knn_over_many_chunks_and_no_queries():
    references, domain, queries = data(1, n=600, m=530, dim=3)
    found = knn(references, domain, queries, Knn(n_neighbors=2))
    expected = [brute(references, domain, q, 2, "cosine") for q in queries[[0, 255, 256, 529]]]
    np.testing.assert_allclose(found[[0, 255, 256, 529]], expected, rtol=1e-9)
    own = knn(references, domain, references, Knn(n_neighbors=1), leave_one_out=True)
    np.testing.assert_allclose(
        own[[0, 300, 599]],
        [brute(references, domain, references[i], 1, "cosine", skip=i) for i in (0, 300, 599)],
        rtol=1e-9,
    )
    assert knn(references, domain, queries[:0]).shape == (0,)


def test_wrong_input_is_refused():
    references, domain, queries = data(2)
    queries[4, 1] = np.nan
    with pytest.raises(ValueError, match="1 of 15 test clips are not finite"):
        knn(references, domain, queries)
    with pytest.raises(ValueError, match="'sauce'"):
        knn(references, np.array(["sauce"] * 40), queries)


# ------------------------------------------------------------------------------------------------ SMOTE


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def enlarged(references, domain, total, neighbors, metric, seed):
    """References and domains with synthetic target clips, added one at a time up to ``total``."""
    u = unit(references) if metric == "cosine" else references
    target = u[domain == "target"]
    near = [
        sorted((np.linalg.norm(a - b), j) for j, b in enumerate(target) if j != i)[:neighbors]
        for i, a in enumerate(target)
    ]
    n = max(total - len(target), 0) if len(target) > 1 else 0
    random = np.random.RandomState(seed)
    drawn = random.randint(0, max(sum(map(len, near)), 1), size=n)
    steps = random.uniform(size=n)
    made = []
    for pair, step in zip(drawn, steps, strict=True):
        i, j = divmod(pair, len(near[0]))
        made.append(target[i] + step * (target[near[i][j][1]] - target[i]))
    return np.array([*u, *made]), np.array([*domain, *["target"] * n])


@settings(deadline=None, max_examples=25)
@example(seed=4, metric="cosine", k=1, neighbors=1, n_target=6, ratio=0.3)  # as many as are wanted
@given(
    seed=st.integers(0, 1000),
    metric=st.sampled_from(["cosine", "euclidean"]),
    k=st.integers(1, 3),
    neighbors=st.integers(1, 5),
    n_target=st.sampled_from([0, 1, 2, 3, 6]),
    ratio=st.sampled_from([0.1, 0.3, 1.0]),
)
def test_knn_with_smote_is_its_formula(seed, metric, k, neighbors, n_target, ratio):
    references, domain, queries = data(seed, n=26, m=5, n_target=n_target)
    total = int(ratio * (26 - n_target))
    options = {"smote_ratio": ratio, "smote_neighbors": neighbors, "seed": seed}
    r, d = enlarged(references, domain, total, neighbors, metric, seed)
    found = knn(references, domain, queries, Knn(n_neighbors=k, metric=metric, **options))
    np.testing.assert_allclose(found, [brute(r, d, q, k, metric) for q in queries], rtol=1e-9)
    own = knn(
        references, domain, references, Knn(n_neighbors=k, metric=metric, **options), leave_one_out=True
    )
    for i in range(len(references)):
        if domain[i] == "target":
            rest = np.arange(len(references)) != i
            r, d = enlarged(references[rest], domain[rest], total, neighbors, metric, seed)
            expected = brute(r, d, references[i], k, metric)
        else:
            r, d = enlarged(references, domain, total, neighbors, metric, seed)
            expected = brute(r, d, references[i], k, metric, skip=i)
        assert own[i] == pytest.approx(expected, rel=1e-9)


def test_smote_fills_the_target_domain():
    """198 target clips beside 990 source clips fill the gap between the two original target clips."""
    rng = np.random.default_rng(0)
    references = np.concatenate(
        [rng.normal(size=(990, 8)) + 9, [[-9, 0, 0, 0, 0, 0, 0, 0], [0, -9, 0, 0, 0, 0, 0, 0]]]
    )
    domain = np.array(["source"] * 990 + ["target"] * 2)
    middle = references[990:].mean(axis=0, keepdims=True)
    assert knn(references, domain, middle)[0] > 0.3
    assert knn(references, domain, middle, Knn(smote_ratio=0.2))[0] < 0.02
    same = [knn(references, domain, middle, Knn(smote_ratio=0.2, seed=s))[0] for s in (0, 0, 1)]
    assert same[0] == same[1] != same[2]


# ---------------------------------------------------------------------------------------------- k-means


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_kmeans_is_its_formula(metric):
    references, domain, queries = data(1, n=80, n_target=6)
    u, q = (unit(x) if metric == "cosine" else x for x in (references, queries))
    centres = SklearnKMeans(7, n_init=1, random_state=3).fit(u[domain == "source"]).cluster_centers_
    if metric == "cosine":
        points = [*unit(centres), *u[domain == "target"]]
        expected = [min(1 - p @ x for p in points) for x in q]
    else:
        expected = [min(np.linalg.norm(p - x) for p in [*centres, *u[domain == "target"]]) for x in q]
    found = kmeans(references, domain, queries, 7, metric, seed=3)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    # With at most as many source clips as clusters, every source clip is a centre.
    found = kmeans(references, domain, queries, 74, "euclidean")
    np.testing.assert_allclose(found, knn(references, domain, queries, Knn(metric="euclidean")), rtol=1e-12)


def test_kmeans_clusters_the_source_domain_only():
    rng = np.random.default_rng(0)
    middles = 20 * np.eye(4)
    references = np.concatenate(
        [*(m + rng.normal(size=(50, 4)) for m in middles), -middles[:1], -middles[1:2]]
    )
    domain = np.array(["source"] * 200 + ["target"] * 2)
    found = kmeans(references, domain, np.concatenate([middles, -middles[:2]]), 4, "euclidean")
    assert (found[:4] < 0.6).all()
    assert found[4:].tolist() == [0, 0]


# ------------------------------------------------------------------------------------ densities around


def brute_density(references, query, metric, form, k, n_around):
    u = unit(references) if metric != "euclidean" else references
    q = unit(query) if metric != "euclidean" else query

    def d(a, b):
        return (1 - a @ b) / 2 if metric == "cosine" else np.linalg.norm(a - b)

    c = [np.mean(sorted(d(a, b) for j, b in enumerate(u) if j != i)[:n_around]) for i, a in enumerate(u)]
    if form == "difference":
        return np.mean(sorted(d(q, a) - b for a, b in zip(u, c, strict=True))[:k])
    floor = 1e-6 * np.mean(c)
    return np.mean(sorted(d(q, a) / max(b, floor) for a, b in zip(u, c, strict=True))[:k])


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 1000),
    metric=st.sampled_from(["chord", "cosine", "euclidean"]),
    form=st.sampled_from(["ratio", "difference"]),
    k=st.integers(1, 3),
    n_around=st.sampled_from([1, 4, 30]),
)
def test_local_density_is_its_formula(seed, metric, form, k, n_around):
    references, domain, queries = data(seed, n=20, m=5)
    options = {"metric": metric, "form": form, "n_neighbors": k, "n_reference_neighbors": n_around}
    found = local_density(references, domain, queries, **options)[1]
    expected = [brute_density(references, q, metric, form, k, n_around) for q in queries]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    own = local_density(references, domain, references, **options)[0]
    expected = [
        brute_density(np.delete(references, i, axis=0), r, metric, form, k, n_around)
        for i, r in enumerate(references)
    ]
    np.testing.assert_allclose(own, expected, rtol=1e-9, atol=1e-12)


def test_local_density_over_many_chunks():
    references, domain, queries = data(4, n=300, m=270, dim=3)
    options = {"metric": "chord", "n_neighbors": 1, "n_reference_neighbors": 4}
    found = local_density(references, domain, queries, **options)[1]
    own = local_density(references, domain, references, **options)[0]
    for i in (0, 255, 256, 269):
        assert found[i] == pytest.approx(brute_density(references, queries[i], "chord", "ratio", 1, 4))
        rest = np.delete(references, i, axis=0)
        assert own[i] == pytest.approx(brute_density(rest, references[i], "chord", "ratio", 1, 4))


def test_identical_recordings_divide_nothing_by_zero():
    rng = np.random.default_rng(0)
    references = np.concatenate([np.tile(rng.normal(size=4), (6, 1)), rng.normal(size=(30, 4))])
    domain = np.array(["source"] * 36)
    queries = np.concatenate([references[:1], references[:1] + 1e-3, rng.normal(size=(3, 4))])
    found = local_density(references, domain, queries, "euclidean", n_reference_neighbors=4)[1]
    expected = [brute_density(references, q, "euclidean", "ratio", 1, 4) for q in queries]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert found[0] == 0 < found[1:].min()
    same = np.ones((10, 4))
    found = local_density(same, domain[:10], np.array([[1.0, 1, 1, 1], [1, 1, 1, 3]]), "euclidean")[1]
    assert found.tolist() == [0, 2]  # the distance itself


@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 1000),
    n_close=st.sampled_from([2, 6, 20]),
    spread=st.sampled_from([1e-3, 1e-6, 1e-8, 1e-10]),
    metric=st.sampled_from(["cosine", "euclidean"]),
    k=st.integers(1, 3),
)
def test_neighbours_within_a_tight_cluster_are_the_right_ones(seed, n_close, spread, metric, k):
    """Far from the mean of all clips a matrix product is wrong by 1e-8 and would choose neighbours by chance."""
    rng = np.random.default_rng(seed)
    places = 5 * rng.normal(size=(2, 8))
    references = np.concatenate(
        [c + spread * rng.normal(size=(n_close, 8)) for c in places] + [rng.normal(size=(20, 8))]
    )
    domain = np.array(["source"] * len(references))
    domain[n_close : n_close + 6] = "target"
    queries = np.concatenate([c + spread * rng.normal(size=(3, 8)) for c in places] + [places])
    found = knn(references, domain, queries, Knn(n_neighbors=k, metric=metric))
    expected = [brute(references, domain, q, k, metric) for q in queries]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-15)
    own = knn(references, domain, references, Knn(n_neighbors=k, metric=metric), leave_one_out=True)
    expected = [brute(references, domain, r, k, metric, skip=i) for i, r in enumerate(references)]
    np.testing.assert_allclose(own, expected, rtol=1e-9, atol=1e-15)
    r, d = enlarged(references, domain, 20, 2, metric, seed)
    options = Knn(n_neighbors=k, metric=metric, smote_neighbors=2, seed=seed)
    # The ratio that gives 20 target references is above 1, the most that a configuration may ask for.
    options = options.model_copy(update={"smote_ratio": 20.5 / (domain == "source").sum()})
    found = knn(references, domain, queries, options)
    np.testing.assert_allclose(found, [brute(r, d, q, k, metric) for q in queries], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("n_close", [3, 200])
def test_distances_within_a_tight_cluster_keep_their_digits(n_close):
    """The cluster is a millionth of its distance to other clips, too small for a matrix product."""
    rng = np.random.default_rng(0)
    references = np.concatenate([1e3 + 1e-3 * rng.normal(size=(n_close, 8)), rng.normal(size=(40, 8))])
    domain = np.array(["source"] * len(references))
    queries = np.concatenate([1e3 + 1e-3 * rng.normal(size=(3, 8)), rng.normal(size=(2, 8))])
    found = local_density(references, domain, queries, "euclidean", n_reference_neighbors=2)[1]
    expected = [brute_density(references, q, "euclidean", "ratio", 1, 2) for q in queries]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_rescaling_helps_a_sparse_domain():
    """A normal clip of a sparse target domain ranks below an anomaly near a dense source domain."""
    rng = np.random.default_rng(0)
    references = np.concatenate([rng.normal(size=(200, 4)) * 0.1, rng.normal(size=(10, 4)) + 10])
    domain = np.array(["source"] * 200 + ["target"] * 10)
    queries = np.array([[0.6, 0.6, 0, 0], [10.5, 10.5, 10, 10]])
    anomaly, normal = knn(references, domain, queries, Knn(metric="euclidean"))
    assert anomaly < normal * 2
    for form, n_around in [("ratio", 4), ("difference", 1)]:
        anomaly, normal = local_density(references, domain, queries, "euclidean", form, 1, n_around)[1]
        assert anomaly > normal


# ------------------------------------------------------------------------------------------- Gaussians


def ledoit_wolf(x):
    """The shrinkage of Ledoit and Wolf, 2004, for rows of mean zero."""
    n, p = x.shape
    s = x.T @ x / n
    m = np.trace(s) / p
    d2 = np.sum((s - m * np.eye(p)) ** 2)
    b2 = sum(np.sum((np.outer(row, row) - s) ** 2) for row in x) / n**2
    return min(b2, d2) / d2


@pytest.mark.parametrize("covariance", ["pooled", "domain"])
@pytest.mark.parametrize("shrinkage", ["ledoit_wolf", 0.0, 0.3])
@pytest.mark.parametrize("normalize", [True, False])
def test_mahalanobis_is_its_formula(covariance, shrinkage, normalize):
    references, domain, queries = data(2, n=60, n_target=12)
    references, queries = references + 1, queries + 1
    u, q = (unit(x) if normalize else x for x in (references, queries))
    means = {d: u[domain == d].mean(axis=0) for d in ("source", "target")}
    distances = []
    for d, mean in means.items():
        if covariance == "pooled":
            rows = np.array([x - means[e] for x, e in zip(u, domain, strict=True)])
        else:
            rows = u[domain == d] - mean
        a = ledoit_wolf(rows) if shrinkage == "ledoit_wolf" else shrinkage
        s = rows.T @ rows / len(rows)
        s = (1 - a) * s + a * np.trace(s) / 6 * np.eye(6)
        distances.append([np.sqrt((x - mean) @ np.linalg.inv(s) @ (x - mean)) for x in q])
    found = mahalanobis(references, domain, queries, covariance, shrinkage, normalize)
    np.testing.assert_allclose(found, np.min(distances, axis=0), rtol=1e-6)


def test_a_domain_without_spread_takes_the_pooled_covariance():
    references, domain, queries = data(3, n_target=1)
    found = mahalanobis(references, domain, queries, "domain")
    np.testing.assert_allclose(found, mahalanobis(references, domain, queries, "pooled"), rtol=0.05)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_gmm_is_its_formula(covariance_type):
    references, domain, queries = data(5, n=60)
    queries[0] *= 30
    shape = {"n_components": 3, "covariance_type": covariance_type, "pca": None}
    options = Gmm(**shape, reg_covar=0.01, normalize=False, seed=4)
    found = gmm(references, domain, queries, options)
    mean = references.mean(axis=0)
    scale = np.sqrt(np.mean((references - mean) ** 2))
    model = GaussianMixture(3, covariance_type=covariance_type, reg_covar=0.01, random_state=4)
    model.fit((references - mean) / scale)
    covariances = {
        "full": lambda c: c,
        "tied": lambda c: [c] * 3,
        "diag": lambda c: [np.diag(x) for x in c],
        "spherical": lambda c: [x * np.eye(6) for x in c],
    }[covariance_type](model.covariances_)
    log = [
        np.log(w) + multivariate_normal(m, c).logpdf((queries - mean) / scale)
        for w, m, c in zip(model.weights_, model.means_, covariances, strict=True)
    ]
    np.testing.assert_allclose(found, -np.logaddexp.reduce(log, axis=0), rtol=1e-6)


def test_one_gaussian_in_principal_components():
    references, domain, queries = data(6, n=100)
    references, queries = references * [9, 5, 3, 0.1, 0.1, 0.1], queries * [9, 5, 3, 0.1, 0.1, 0.1]
    options = Gmm(n_components=1, pca=2, reg_covar=0.1, normalize=False)
    found = gmm(references, domain, queries, options)
    x = references - references.mean(axis=0)
    directions = np.linalg.svd(x, full_matrices=False)[2][:2]
    z, q = x @ directions.T, (queries - references.mean(axis=0)) @ directions.T
    scale = np.sqrt(np.mean(z**2))
    density = multivariate_normal(np.zeros(2), np.cov(z.T, ddof=0) / scale**2 + 0.1 * np.eye(2))
    np.testing.assert_allclose(found, -density.logpdf(q / scale), rtol=1e-6)
    # The unit of the embedding makes no difference.
    np.testing.assert_allclose(
        gmm(1e-3 * references, domain, 1e-3 * queries, options),
        found,
        rtol=1e-6,
    )


# ------------------------------------------------------------------------------------------------- PyOD


def test_pyod_is_pyod():
    from pyod.models.ecod import ECOD

    references, domain, queries = data(7)
    train, test = Features(references, {}, [0] * 40), Features(queries, {}, [0] * 15)
    own, new = score_machine(Pyod(detector="ECOD"), train, list(domain), test)
    np.testing.assert_allclose(new, ECOD().fit(unit(references)).decision_function(unit(queries)))
    assert own.shape == (40,)
    before = np.random.get_state()[1].copy()
    for detector, options in [("IForest", {"n_estimators": 20}), ("LODA", {}), ("LOF", {"n_neighbors": 5})]:
        first, again = (
            score_machine(Pyod(detector=detector, options=options), train, list(domain), test)
            for _ in range(2)
        )
        np.testing.assert_array_equal(first[0], again[0])
        np.testing.assert_array_equal(first[1], again[1])
    assert (np.random.get_state()[1] == before).all()
    other = score_machine(Pyod(detector="IForest", seed=1), train, list(domain), test)
    assert (other[1] != score_machine(Pyod(detector="IForest"), train, list(domain), test)[1]).any()


def test_detectors_that_draw_from_global_generators_are_seeded_without_side_effects():
    import random

    import torch

    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    def drawn(seed):
        with seeded(seed):
            return draw()

    assert drawn(3) == drawn(3)
    assert not set(drawn(3)) & set(drawn(4))
    with seeded(0):
        before = drawn(5), draw()
    with seeded(0):
        assert draw() == before[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"detector": "ECODE"}, "no detector 'ECODE'; did you mean 'ecod'"),
        ({"detector": "ecod"}, r"has no detector 'ecod' \(it has: .*ECOD\)"),
        (
            {"detector": "LOF", "options": {"neighbors": 3}},
            "no option 'neighbors'; did you mean 'n_neighbors'",
        ),
        ({"detector": "LSCP"}, r"LSCP fails with the options \{\}: TypeError: .*detector_list"),
        (
            {"detector": "KNN", "options": {"method": "foo"}},
            r"KNN fails with the options \{'method': 'foo'\}: AttributeError: ",
        ),
        ({"detector": "SOD"}, r"SOD fails with the options \{\}: ValueError: Expected n_neighbors"),
    ],
)
def test_unknown_detectors_and_options_are_named(options, message):
    references, domain, queries = data(8)
    with pytest.raises(ValueError, match=message):
        score_machine(
            Pyod(**options), Features(references, {}, [0] * 40), list(domain), Features(queries, {}, [0] * 15)
        )


def test_pyod_that_is_not_installed_names_the_extra(monkeypatch):
    for name in [m for m in sys.modules if m == "pyod" or m.startswith("pyod.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyod", None)
    references, domain, queries = data(8)
    with pytest.raises(ValueError, match=r"pip install 'asdray\[pyod\]'"):
        score_machine(
            Pyod(detector="ECOD"),
            Features(references, {}, [0] * 40),
            list(domain),
            Features(queries, {}, [0] * 15),
        )


# --------------------------------------------------------------------------------------------- all of them


def test_held_out_clips_are_scored_by_the_others():
    _, domain, _ = data(0, n=23, n_target=7)
    seen = []

    def score(r, d, q):
        assert not set(r[:, 0]) & set(q[:, 0])
        assert len(r) + len(q) == 23
        assert (d == domain[r[:, 0].astype(int)]).all()
        assert 4 <= (d == "target").sum() <= 6
        seen.extend(q[:, 0])
        return 2 * q[:, 0]

    indices = np.arange(23.0)[:, None]
    np.testing.assert_array_equal(held_out(score, indices, domain), 2 * indices[:, 0])
    assert sorted(seen) == list(range(23))


def run(backend, references, domain, queries, sections=None):
    sections = sections or ([0] * len(references), [0] * len(queries))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return score_machine(
            backend, Features(references, {}, sections[0]), list(domain), Features(queries, {}, sections[1])
        )


@pytest.mark.parametrize("backend", [b for b in EVERY if b != Gmm(pca=1, covariance_type="tied")], ids=repr)
def test_a_training_clip_is_scored_as_if_it_were_new(backend):
    references, domain, queries = data(9, n=60, m=40, n_target=10)
    references, queries = references * 0.1 + [3, 0, 0, 0, 0, 0], queries * 0.1 + [3, 0, 0, 0, 0, 0]
    references[5] = [0, 0, 9, 0, 0, 0]
    own, new = run(backend, references, domain, queries)
    assert own.shape == (60,)
    assert new.shape == (40,)
    # An isolated clip would be normal if it were its own reference.
    assert np.argmax(own) == 5
    again = run(backend, references, domain, queries)
    np.testing.assert_array_equal(again[0], own)
    np.testing.assert_array_equal(again[1], new)


@st.composite
def degenerate(draw):
    """A few clips, many of them equal, zero, or equal in a dimension; any domains; any scale."""
    dim = draw(st.integers(1, 4))
    values = st.sampled_from([0.0, 1.0, -1.0, 1 / 3, 1e-3, 1e-30, 1e30])
    row = st.lists(values, min_size=dim, max_size=dim)
    rows = draw(st.lists(row, min_size=1, max_size=3))
    n = draw(st.integers(1, 9))
    references = [rows[draw(st.integers(0, len(rows) - 1))] for _ in range(n)]
    domain = [draw(st.sampled_from(["source", "target"])) for _ in range(n)]
    queries = draw(st.lists(st.one_of(st.sampled_from(references), row), max_size=4))
    return (
        np.array(references, dtype=np.float32),
        domain,
        np.array(queries, dtype=np.float32).reshape(-1, dim),
    )


def too_few(backend, domain):
    """True if a backend cannot score training clips of these domains."""
    most = max(domain.count("source"), domain.count("target"))
    match backend:
        case LdnDomain():
            return most < 3
        case MemMixup(z="train" | "train_bank"):
            return most < 4
        case KnnRescale() | Ldn() | VarMin() | Beam(varmin=int()):
            return len(domain) < 3
    return len(domain) < 2


@settings(deadline=None, max_examples=40)
@given(case=degenerate())
def test_degenerate_input_gives_finite_scores_or_a_clear_error(case):
    references, domain, queries = case
    for backend in EVERY:
        if isinstance(backend, MemMixup) and backend.z == "test" and not len(queries):
            with pytest.raises(ValueError, match="too few|z test needs test clips"):
                run(backend, references, domain, queries)
        elif too_few(backend, domain):
            with pytest.raises(ValueError, match="training clips are too few"):
                run(backend, references, domain, queries)
        else:
            scores = run(backend, references, domain, queries)
            assert [len(s) for s in scores] == [len(references), len(queries)]
            assert np.isfinite(np.concatenate(scores)).all(), backend


@pytest.mark.parametrize("backend", EVERY, ids=repr)
def test_embeddings_that_are_not_finite_are_refused(backend):
    for value in (np.nan, np.inf):
        references, domain, queries = data(10)
        queries[3, 1] = value
        with pytest.raises(ValueError, match="1 of 15 test clips are not finite"):
            run(backend, references, domain, queries)
        references[:2, 0] = value
        with pytest.raises(ValueError, match="training clips are not finite"):
            run(backend, references, domain, queries)


@pytest.mark.parametrize("backend", EVERY, ids=repr)
def test_separate_sections(backend):
    references, domain, queries = data(11, n=60, m=20, n_target=12)
    sections = [i % 3 for i in range(60)], [i % 3 for i in range(20)]
    apart = backend.model_copy(update={"sep_section": True})
    own, new = run(apart, references, domain, queries, sections)
    for s in range(3):
        expected = run(backend, references[s::3], domain[s::3], queries[s::3])
        np.testing.assert_array_equal(own[s::3], expected[0])
        np.testing.assert_array_equal(new[s::3], expected[1])
    with pytest.raises(ValueError, match="section 7: 0 training clips are too few"):
        run(apart, references, domain, queries, (sections[0], [*sections[1][:-1], 7]))


def test_the_default_backends_of_a_benchmark():
    backends = check_backends(DEFAULTS, "backends")
    assert backends == (
        Knn(n_neighbors=1, metric="cosine"),
        KMeans(n_clusters=16, metric="cosine", seed=0),
        Knn(smote_ratio=0.2, smote_neighbors=2, seed=0),
        KnnRescale(n_neighbors=1, n_reference_neighbors=4, metric="cosine"),
    )
    labels = backend_labels({backend_id(b): b.model_dump() for b in backends})
    assert list(labels.values()) == ["knn(smote_ratio=0.0)", "kmeans", "knn(smote_ratio=0.2)", "knn_rescale"]


def test_labels_name_the_scored_value():
    backends = check_backends(
        [
            {"name": "pyod", "detector": "ECOD"},
            {"name": "own", "score": "mahalanobis"},
            "recon",
            {"name": "mahalanobis", "shrinkage": ["ledoit_wolf", 0.1]},
        ],
        "backends",
    )
    labels = backend_labels({backend_id(b): b.model_dump() for b in backends})
    assert list(labels.values()) == [
        "pyod(detector=ECOD)",
        "own(score=mahalanobis)",
        "recon",
        "mahalanobis(shrinkage=ledoit_wolf)",
        "mahalanobis(shrinkage=0.1)",
    ]


def test_later_options_of_knn_keep_its_id_at_their_old_values():
    assert backend_id(Knn(smote_ratio=0.0, smote_neighbors=2, seed=0, sep_section=False)) == "knn-5f37182d"
    others = [Knn(), Knn(smote_ratio=0.2), Knn(sep_section=True), Knn(smote_ratio=0.2, seed=1)]
    assert len({backend_id(b) for b in others}) == 4


def test_score_machine():
    references, domain, queries = data(3)
    train = Features(references, {"recon": np.arange(40, dtype=np.float32)}, [0] * 40)
    test = Features(queries, {"recon": np.arange(15, dtype=np.float32)}, [0] * 15)
    own, new = score_machine(Recon(), train, list(domain), test)
    np.testing.assert_array_equal(own, np.arange(40))
    np.testing.assert_array_equal(new, np.arange(15))
    own, new = score_machine(Knn(n_neighbors=3, metric="euclidean"), train, list(domain), test)
    np.testing.assert_array_equal(
        new, knn(references, domain, queries, Knn(n_neighbors=3, metric="euclidean"))
    )
    np.testing.assert_array_equal(
        own, knn(references, domain, references, Knn(n_neighbors=3, metric="euclidean"), leave_one_out=True)
    )
    nothing = Features(None, {}, [])
    with pytest.raises(ValueError, match="offers none"):
        score_machine(Knn(), nothing, list(domain), nothing)
    with pytest.raises(ValueError, match="no score of its own called 'recon'"):
        score_machine(Recon(), nothing, list(domain), nothing)
    with pytest.raises(ValueError, match=r"no score of its own called 'mse' \(it offers: \['recon'\]\)"):
        score_machine(Own(score="mse"), train, list(domain), test)
    np.testing.assert_array_equal(
        score_machine(Own(score="recon"), train, list(domain), test)[1], np.arange(15)
    )
