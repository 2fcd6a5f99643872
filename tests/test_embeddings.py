"""A frontend with several embeddings, some with bands: from the plugin's file to scores by named embeddings."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from no_plugins import forget_plugins
from tiny import DCASE, MACHINES, build_year

from asdray import store
from asdray.backends import Features, score_machine
from asdray.config.backend import (
    BackendConfig,
    Gmm,
    KMeans,
    Knn,
    KnnRescale,
    Ldn,
    Mahalanobis,
    backend_id,
)
from asdray.config.base import canonical, digest, load_plugins
from asdray.config.expand import expand
from asdray.config.files import validate
from asdray.config.sweep import Sweep, check_backends
from asdray.config.system import System
from asdray.config.trial import Trial
from asdray.evaluation.tables import backend_labels
from asdray.stages.extract import Extract, extract, read_extract
from asdray.stages.score import score
from asdray.stages.steps import TrialFiles
from asdray.stages.train import train
from asdray.store import Places

PLUGIN = '''
from typing import ClassVar, Literal

from asdray.config.frontend import FrontendConfig
from asdray.frontends.base import FrontendModule


class BandsConfig(FrontendConfig):
    name: Literal["bands"] = "bands"
    complete: bool = True
    learns: ClassVar = False
    has_one_seed: ClassVar = True
    scope: ClassVar = "all"
    embeddings: ClassVar = ("L1_mean", "L1_bands_mean", "L2_mean")
    own_scores: ClassVar = ("recon",)


class Bands(FrontendModule):
    """Loudness in three parts of a clip, called bands, of six pieces each."""

    def __init__(self, config, n_samples, columns, saved):
        super().__init__()
        self.complete = config.complete

    def extract(self, waves):
        bands = waves[:, :5400].reshape(-1, 3, 6, 300).abs().mean(3)  # clips, 3, 6
        found = {"recon": bands.sum((1, 2)), "L2_mean": bands.mean(2), "L1_mean": bands.mean(1)}
        return {**found, "L1_bands_mean": bands} if self.complete else found


FRONTENDS = [(BandsConfig, Bands)]
'''
NAMES = ("L1_mean", "L1_bands_mean", "L2_mean")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Places and a trial with a machine that is extracted."""
    root = tmp_path_factory.mktemp("embeddings")
    (root / "bands.py").write_text(PLUGIN)
    load_plugins([root / "bands.py"])
    build_year(root / "data")
    places = Places.of(root / "data", root / "results")
    trial = trial_of()
    train(TrialFiles.load(trial, places), trial.units[0])
    extract(TrialFiles.load(trial, places), "fan", "last")
    yield places, trial
    forget_plugins()


def trial_of(**options) -> Trial:
    system = validate(System, {"frontend": {"name": "bands", **options}, "audio": {"duration": 0.4}}, "x")
    return Trial(DCASE, "bands", system, 0, MACHINES)


def test_every_embedding_is_a_column_of_its_own_with_its_shape(world):
    places, trial = world
    path = store.trial_dir(places.results, trial).extract("last", "fan", "test")
    table = pq.read_table(path)
    assert table.column_names == ["clip", *NAMES, "recon"]
    assert [table.schema.field(n).type for n in NAMES] == [pa.list_(pa.float32(), n) for n in (6, 18, 3)]
    every = read_extract(path, NAMES)
    assert [x.shape for x in every.embeddings.values()] == [(4, 6), (4, 3, 6), (4, 3)]
    bands = every.embeddings["L1_bands_mean"]
    np.testing.assert_allclose(bands.mean(1), every.embeddings["L1_mean"], rtol=1e-6)
    np.testing.assert_allclose(bands.mean(2), every.embeddings["L2_mean"], rtol=1e-6)
    np.testing.assert_array_equal(np.stack(table["L1_bands_mean"].to_numpy()).reshape(bands.shape), bands)


def test_only_the_embeddings_that_are_asked_for_are_read(world, monkeypatch):
    places, trial = world
    path = store.trial_dir(places.results, trial).extract("last", "fan", "train")
    read = []
    original = pq.ParquetFile.read
    monkeypatch.setattr(
        pq.ParquetFile, "read", lambda self, names: read.append(names) or original(self, names)
    )
    assert list(read_extract(path).embeddings) == ["L1_mean"], "the first"
    assert list(read_extract(path, ("L2_mean", "L1_bands_mean")).embeddings) == ["L2_mean", "L1_bands_mean"]
    assert read == [["clip", "L1_mean", "recon"], ["clip", "L1_bands_mean", "L2_mean", "recon"]]
    with pytest.raises(ValueError, match=r"no embedding 'L3_mean' \(it has: L1_mean, L1_bands_mean, L2_mean"):
        read_extract(path, ("L3_mean",))


def test_backends_score_the_embeddings_that_they_name(world):
    places, trial = world
    folder = store.trial_dir(places.results, trial)
    train_, test_ = (read_extract(folder.extract("last", "fan", split), NAMES) for split in ("train", "test"))
    domain = ["source" if "source" in clip else "target" for clip in train_.clips]

    def by_hand(name, band):
        x, y = (e.embeddings[name] for e in (train_, test_))
        features = (Features(v if band is None else v[:, band], {}, [0] * len(v)) for v in (x, y))
        train_features, test_features = features
        return np.concatenate(score_machine(Knn(), train_features, domain, test_features))

    expected = {
        None: by_hand("L1_mean", None),
        "L2_mean": by_hand("L2_mean", None),
        "L1_bands_mean": np.mean([by_hand("L1_bands_mean", band) for band in range(3)], axis=0),
        "L2_mean+L1_mean": (by_hand("L2_mean", None) + by_hand("L1_mean", None)) / 2,
    }
    for name, values in expected.items():
        backend = Knn(embedding=name)
        (applied,) = trial.backends((backend,))[:1]
        score(TrialFiles.load(trial, places), "fan", "last", applied)
        found = pd.read_parquet(folder.scores("last", "fan", backend_id(backend)))["score"]
        np.testing.assert_allclose(found, values, rtol=1e-12)


def test_plots_take_the_first_embedding_bands_side_by_side():
    bands = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    found = Extract(["a", "b"], {"first": bands, "second": bands[:, 0]}, {}).embedding
    np.testing.assert_array_equal(found, np.concatenate([bands[:, i] for i in range(3)], axis=1))


def test_an_embedding_that_is_not_computed_is_named(world):
    places, _ = world
    trial = trial_of(complete=False)
    train(TrialFiles.load(trial, places), trial.units[0])
    found = "found a dictionary with 'recon', .*, expected 'L1_bands_mean' as well"
    with pytest.raises(ValueError, match=f"bands.py, line [0-9]+: Bands.extract: {found}"):
        extract(TrialFiles.load(trial, places), "fan", "last")


def test_an_unknown_embedding_is_an_error_of_planning(world, tmp_path):
    _, trial = world
    recipe = tmp_path / "bands.yaml"
    recipe.write_text("about: Bands\nfrontend: {name: bands}\n")
    spec = {"name": "w", "recipes": [str(recipe)], "dcase": [DCASE], "seeds": [0]}

    def planned(*backends):
        return expand(validate(Sweep, {**spec, "backends": list(backends)}, "w.yaml"), "w.yaml")

    assert len(planned({"name": "knn", "embedding": ["L1_mean", "L2_mean+L1_bands_mean", None]})) == 1
    with pytest.raises(ValueError) as caught:
        planned("knn", {"name": "knn", "embedding": ["L1_mean", "L1_mean+L1_band_mean"]})
    assert str(caught.value) == (
        "w.yaml: backend knn: frontend 'bands' has no embedding 'L1_band_mean'; did "
        "you mean 'L1_bands_mean'? (known: L1_mean, L1_bands_mean, L2_mean)"
    )
    with pytest.raises(ValueError, match=r"has no embedding 'L1_mean'.*known: embedding"):
        expand(
            validate(
                Sweep,
                {**spec, "recipes": ["raw_spec"], "backends": [{"name": "knn", "embedding": "L1_mean"}]},
                "w",
            ),
            "w",
        )
    both = {**spec, "recipes": ["raw_spec", str(recipe)]}
    backends = [{"name": "knn", "embedding": [None, "L1_mean"]}]
    trials = [one for one, _ in expand(validate(Sweep, {**both, "backends": backends}, "w"), "w")]
    asked = check_backends(backends, "w")
    assert [t.backends(asked)[:2] for t in trials] == [asked[:1], asked], (
        "a backend of embeddings that one has"
    )
    with pytest.raises(ValueError, match="no frontend of the sweep has the embedding 'L9'"):
        expand(validate(Sweep, {**both, "backends": [{"name": "knn", "embedding": "L9"}]}, "w"), "w")
    assert trial.backends((Gmm(embedding="nothing"),)) == trial.backends(())


@pytest.mark.parametrize(
    ("text", "message"), [("a++b", "no name of an embedding"), ("a+a", "names 'a' twice")]
)
def test_names_that_cannot_be_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        check_backends([{"name": "knn", "embedding": text}], "--backend")


# --------------------------------------------------------------------------------------------- bands of backends


def features(seed, n):
    return Features(np.random.default_rng(seed).normal(size=(n, 3, 5)).astype(np.float32), {}, [0] * n)


EVERY = [
    Knn(),
    Knn(smote_ratio=0.5),
    KMeans(n_clusters=3),
    KnnRescale(),
    Ldn(form="difference"),
    Mahalanobis(),
    Gmm(pca=2),
]


@pytest.mark.parametrize("backend", EVERY, ids=lambda b: f"{b.name}")
def test_every_backend_takes_bands(backend):
    train_, test_ = features(0, 30), features(1, 7)
    domain = ["source"] * 24 + ["target"] * 6

    def run(combine, band=slice(None), flat=False):
        chosen = []
        for x in (train_.embedding, test_.embedding):
            x = x[:, band]
            chosen.append(Features(x.reshape(len(x), -1) if flat else x, {}, [0] * len(x)))
        return np.concatenate(
            score_machine(backend.model_copy(update={"combine": combine}), chosen[0], domain, chosen[1])
        )

    one_by_one = np.stack([run("mean", band) for band in range(3)])
    np.testing.assert_allclose(run("mean"), one_by_one.mean(0), rtol=1e-12)
    # With several bands these two take a faster way to the same numbers, up to rounding.
    rounding = 1e-12 if isinstance(backend, Mahalanobis | Gmm) else 0
    np.testing.assert_allclose(run("min"), one_by_one.min(0), rtol=rounding)
    np.testing.assert_array_equal(run("join"), run("mean", flat=True))


def test_bands_and_sections_go_together():
    backend = Knn(sep_section=True, combine="min")
    train_, test_ = features(0, 30), features(1, 8)
    sections = [0, 1] * 15, [0, 1] * 4
    domain = np.array(["source"] * 24 + ["target"] * 6)
    apart = [Features(x.embedding, {}, s) for x, s in zip((train_, test_), sections, strict=True)]
    own, new = score_machine(backend, apart[0], list(domain), apart[1])
    for s in (0, 1):
        parts = [Features(x.embedding[s::2], {}, [s] * len(x.embedding[s::2])) for x in (train_, test_)]
        expected = score_machine(backend, parts[0], list(domain[s::2]), parts[1])
        np.testing.assert_array_equal(own[s::2], expected[0])
        np.testing.assert_array_equal(new[s::2], expected[1])


def test_the_new_options_change_no_id_and_no_file_where_they_are_not_used():
    assert backend_id(Knn(embedding=None, combine="mean")) == "knn-5f37182d"
    assert backend_id(KMeans()) == backend_id(KMeans(combine="mean"))
    for backend in EVERY:
        assert {"embedding", "combine"}.isdisjoint({**canonical(backend), **backend.model_dump(mode="json")})
    spread = Knn(embedding="a + b", combine="min")
    assert canonical(spread)["embedding"] == "a+b"
    assert spread.model_dump() == {**Knn().model_dump(), "embedding": "a+b", "combine": "min"}
    assert Knn(**spread.model_dump()) == spread
    assert len({digest(b) for b in (Knn(), spread, Knn(embedding="a+b"), Knn(combine="min"))}) == 4

    class Mine(BackendConfig):
        name: str = "mine"
        later = {"sep_section": False}  # noqa: RUF012

    assert canonical(Mine()) == {"numerics": 1, "name": "mine"}


def test_labels_name_embeddings_where_they_are_not_the_first():
    def labels(*items):
        return list(
            backend_labels({backend_id(b): b.model_dump() for b in check_backends(list(items), "x")}).values()
        )

    assert labels("knn", {"name": "knn", "embedding": ["a", "a+b"]}) == [
        "knn",
        "knn(embedding=a)",
        "knn(embedding=a+b)",
    ]
    assert labels({"name": "knn", "embedding": "a", "combine": "min"}) == ["knn(embedding=a, combine=min)"]
    assert labels({"name": "knn", "n_neighbors": [1, 2]}) == ["knn(n_neighbors=1)", "knn(n_neighbors=2)"]
    # A record of an earlier release does not have the options.
    old = {"a": {"name": "knn", "n_neighbors": 1}, "b": {"name": "knn", "n_neighbors": 1, "embedding": "L"}}
    assert list(backend_labels(old).values()) == ["knn", "knn(embedding=L)"]
