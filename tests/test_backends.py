"""Backends against brute force written from their formulas."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asdray.backends import Features, score_machine
from asdray.backends.knn import knn
from asdray.config.backend import Knn, Recon


def brute(references, domain, query, k, metric, skip=None):
    """The formula, one query at a time."""

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
    found = knn(references, domain, queries, k, metric)
    expected = [brute(references, domain, q, k, metric) for q in queries]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12 * scale)
    own = knn(references, domain, references, k, metric, leave_one_out=True)
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
    assert (knn(references, domain, references, metric="euclidean") == 0).all()
    assert (knn(references, domain, references) == 0).all()
    moved = references.astype(np.float64)
    moved[:, 0] += 1e-6
    np.testing.assert_allclose(knn(references, domain, moved, metric="euclidean"), 1e-6, rtol=1e-3)
    same = np.ones((20, 4), dtype=np.float32)
    assert (knn(same, domain[:20], same, 4, leave_one_out=True) == 0).all()
    assert (knn(np.zeros((3, 4)), domain[:3], np.zeros((2, 4))) == 0).all()


def test_leave_one_out_with_few_references():
    references = np.array([[0.0], [1.0], [5.0]])
    one_target = np.array(["source", "source", "target"])
    found = knn(references, one_target, references, 4, "euclidean", leave_one_out=True)
    # The only target clip is compared with the source clips alone.
    np.testing.assert_allclose(found, [1.0, 1.0, 4.5])
    with pytest.raises(ValueError, match="1 training clips are too few"):
        knn(references[:1], one_target[:1], references[:1], leave_one_out=True)
    with pytest.raises(ValueError, match="0 training clips are too few"):
        knn(references[:0], one_target[:0], references)


def test_knn_over_many_chunks_and_no_queries():
    references, domain, queries = data(1, n=600, m=530, dim=3)
    found = knn(references, domain, queries, 2)
    expected = [brute(references, domain, q, 2, "cosine") for q in queries[[0, 255, 256, 529]]]
    np.testing.assert_allclose(found[[0, 255, 256, 529]], expected, rtol=1e-9)
    own = knn(references, domain, references, 1, leave_one_out=True)
    np.testing.assert_allclose(
        own[[0, 300, 599]],
        [brute(references, domain, references[i], 1, "cosine", skip=i) for i in (0, 300, 599)],
        rtol=1e-9,
    )
    assert knn(references, domain, queries[:0]).shape == (0,)


def test_wrong_input_is_said():
    references, domain, queries = data(2)
    queries[4, 1] = np.nan
    with pytest.raises(ValueError, match="1 of 15 test clips are not finite"):
        knn(references, domain, queries)
    with pytest.raises(ValueError, match="'sauce'"):
        knn(references, np.array(["sauce"] * 40), queries)


def test_score_machine():
    references, domain, queries = data(3)
    train = Features(references, {"recon": np.arange(40, dtype=np.float32)}, [0] * 40)
    test = Features(queries, {"recon": np.arange(15, dtype=np.float32)}, [0] * 15)
    own, new = score_machine(Recon(), train, list(domain), test)
    np.testing.assert_array_equal(own, np.arange(40))
    np.testing.assert_array_equal(new, np.arange(15))
    own, new = score_machine(Knn(n_neighbors=3, metric="euclidean"), train, list(domain), test)
    np.testing.assert_array_equal(new, knn(references, domain, queries, 3, "euclidean"))
    np.testing.assert_array_equal(
        own, knn(references, domain, references, 3, "euclidean", leave_one_out=True)
    )
    nothing = Features(None, {}, [])
    with pytest.raises(ValueError, match="offers none"):
        score_machine(Knn(), nothing, list(domain), nothing)
    with pytest.raises(ValueError, match="no score of its own called 'recon'"):
        score_machine(Recon(), nothing, list(domain), nothing)
