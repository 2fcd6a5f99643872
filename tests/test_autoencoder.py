"""The autoencoder's scores against their formulas, and the vectors that are held out from training."""

from __future__ import annotations

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import AE, build_year, trial_of

from asdray import frontends, store
from asdray.audio.batches import Clips
from asdray.config.frontend import Autoencoder
from asdray.stages.extract import extract
from asdray.stages.steps import TrialFiles
from asdray.stages.train import train
from asdray.store import Places

CONFIG = Autoencoder(
    n_mels=6, n_fft=128, hop_length=64, n_frames=3, hidden=(8,), bottleneck=2, scores=("mahalanobis", "recon")
)
DOMAINS = ["source", "target", "source", "source", "target"]


def _clips(n_clips: int = 5, n_samples: int = 1500, seed: int = 0) -> Clips:
    samples = np.random.default_rng(seed).integers(-9000, 9000, (n_clips * n_samples, 1)).astype(np.int16)
    offsets = np.arange(n_clips + 1) * n_samples
    offsets[1:-1] += 100  # clips of different lengths
    return Clips([SimpleNamespace(clips=list(map(str, range(n_clips))), samples=samples, offsets=offsets)])


def _module(config: Autoencoder = CONFIG):
    module = frontends.build(config, 1500, seed=3).eval()
    with torch.no_grad():  # batch statistics as after training: errors that differ
        for norm in module.modules():
            if isinstance(norm, torch.nn.BatchNorm1d):
                norm.running_mean.uniform_(-1, 1)
    return module


def _errors(module, waves: torch.Tensor) -> np.ndarray:
    """Errors of a clip's vectors, ``(V, S, M) float64``."""
    frames = module.frames(waves[None])[0]
    vectors = torch.stack([frames[t : t + 3].flatten() for t in range(len(frames) - 2)])
    return (module.network(vectors)[0] - vectors).double().view(len(vectors), 3, -1).numpy()


def _wave(clips: Clips, i: int) -> torch.Tensor:
    return clips.gather(np.array([i]), int(clips.lengths[i]))[0] / 32768


def _prepare(module, clips: Clips, domains: list[str], batch_size: int = 16, seed: int = 0) -> None:
    module.prepare(clips, {"domain": domains}, batch_size, np.random.default_rng(seed))


@torch.no_grad()
def test_mahalanobis_equals_its_pairwise_form():
    module, clips = _module(), _clips()
    _prepare(module, clips, DOMAINS)
    inverses = []
    for domain in ("source", "target"):
        mine = [_errors(module, _wave(clips, i)) for i in range(5) if DOMAINS[i] == domain]
        rows = np.concatenate([e.reshape(-1, 6) for e in mine])
        rows = rows - rows.mean(axis=0)
        covariance = sum(np.outer(r, r) for r in rows) / (sum(map(len, mine)) - 1)
        inverses.append(np.linalg.inv(covariance))
    waves = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (3, 1500)).astype(np.float32))
    found = module.extract(waves)
    for i, wave in enumerate(waves):
        errors = _errors(module, wave)
        rows = errors.reshape(-1, 6)
        expected = min(np.mean([[a @ inverse @ b for a in rows] for b in rows]) for inverse in inverses)
        assert found["mahalanobis"][i].item() == pytest.approx(expected, rel=1e-6)
        assert found["recon"][i].item() == pytest.approx(np.mean(errors**2), rel=1e-6)


@torch.no_grad()
def test_centring_per_batch_as_in_the_official_baseline():
    """As in the official baseline: a shuffled pass over the training vectors, each batch and domain on its own."""
    module, clips = _module(CONFIG.model_copy(update={"centring": "batch", "validation": 0.25})), _clips()
    _prepare(module, clips, DOMAINS, batch_size=16, seed=7)
    of_clip = [_errors(module, _wave(clips, i)) for i in range(5)]
    errors = np.concatenate(of_clip)
    domain = np.repeat(DOMAINS, [len(e) for e in of_clip])

    rng = np.random.default_rng(7)  # what is held out comes first, as in training, then the order
    data = module.training_data(clips, {}, 16, np.random.default_rng(7))
    held_out = rng.choice(len(errors), round(0.25 * len(errors)), replace=False)
    trained = np.setdiff1d(np.arange(len(errors)), held_out)
    assert sum(data.sizes) == len(trained)
    order = rng.permutation(trained)
    inverses = []
    for name in ("source", "target"):
        total = np.zeros((6, 6))
        for start in range(0, len(order), 16):
            batch = order[start : start + 16]
            rows = errors[batch][domain[batch] == name].reshape(-1, 6)
            centre = rows.mean(axis=0) if len(rows) else 0
            for row in rows:
                total += np.outer(row - centre, row - centre)
        inverses.append(np.linalg.inv(total / ((domain[order] == name).sum() - 1)))
    waves = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (3, 1500)).astype(np.float32))
    found = module.extract(waves)["mahalanobis"]
    for i, wave in enumerate(waves):
        mean = _errors(module, wave).reshape(-1, 6).mean(axis=0)
        expected = min(mean @ inverse @ mean for inverse in inverses)
        assert found[i].item() == pytest.approx(expected, rel=1e-6)
    for changes in ({"batch_size": 32}, {"seed": 8}):
        _prepare(module, clips, DOMAINS, **{"batch_size": 16, "seed": 7, **changes})
        assert (module.extract(waves)["mahalanobis"] != found).any(), changes
    _prepare(module, clips, DOMAINS, batch_size=16, seed=7)
    assert torch.equal(module.extract(waves)["mahalanobis"], found)


@torch.no_grad()
def test_without_target_clips_the_source_covariance_is_used():
    module, clips = _module(), _clips()
    waves = torch.rand(3, 1500) - 0.5
    _prepare(module, clips, ["source"] * 5)
    source = module.extract(waves)["mahalanobis"]
    _prepare(module, clips, ["target"] * 5)
    assert torch.equal(module.extract(waves)["mahalanobis"], source)
    _prepare(module, clips, DOMAINS)
    assert (module.extract(waves)["mahalanobis"] != source).any()


@torch.no_grad()
def test_a_singular_covariance_is_named():
    module = _module(CONFIG.model_copy(update={"n_mels": 30, "n_frames": 1}))
    with pytest.raises(ValueError, match=r"30 mel bands, .*source training clips \(26 vectors\) is singular"):
        _prepare(module, _clips(2), ["source", "target"])


def test_scores_are_ordered_and_not_repeated():
    assert CONFIG.own_scores == ("recon", "mahalanobis")
    assert CONFIG.model_validate({**CONFIG.model_dump(), "scores": ["recon", "mahalanobis"]}) == CONFIG
    with pytest.raises(ValueError, match="names 'recon' twice"):
        Autoencoder(scores=("recon", "recon"))
    with pytest.raises(ValueError, match="scores"):
        Autoencoder(scores=())
    waves = torch.rand(2, 1500)
    with torch.no_grad():
        assert set(_module(Autoencoder(n_mels=6, hop_length=128, hidden=(4,))).extract(waves)) == {
            "embedding",
            "recon",
        }


# -------------------------------------------------------------------------------------------- validation


def test_held_out_vectors_are_never_trained_on():
    module = _module(CONFIG.model_copy(update={"validation": 0.25}))
    everything = _module().training_data(_clips(), {}, 16, np.random.default_rng(0))
    assert list(everything.held_out()) == []
    data = module.training_data(_clips(), {}, 16, np.random.default_rng(0))
    held_out = torch.cat(list(data.held_out()))
    trained = torch.cat(list(data.epoch(np.random.default_rng(5))))
    assert len(held_out) == round(0.25 * sum(everything.sizes))
    assert len(held_out) + len(trained) == sum(everything.sizes)

    def rows(vectors):
        return {tuple(row) for row in vectors.tolist()}

    assert rows(held_out).isdisjoint(rows(trained))
    other = module.training_data(_clips(), {}, 16, np.random.default_rng(1))
    assert rows(torch.cat(list(other.held_out()))) != rows(held_out), "drawn, not taken from the end"


def test_training_and_extraction_with_validation_and_both_scores(tmp_path):
    build_year(tmp_path / "data")
    places = Places.of(tmp_path / "data", tmp_path / "results")
    options = {"validation": 0.2, "scores": ("recon", "mahalanobis"), "centring": "batch"}
    frontend = AE.frontend.model_copy(update=options)
    trial = trial_of(AE.model_copy(update={"frontend": frontend}))
    unit = trial.unit_of("fan")

    class Stop(Exception):  # noqa: N818 - what ends the training here is no error
        pass

    def stop(row):
        if row["epoch"] == 2:
            raise Stop

    with pytest.raises(Stop):
        train(TrialFiles.load(trial, places), unit, checkpoints=("last", "best"), on_epoch=stop)
    train(TrialFiles.load(trial, places), unit, checkpoints=("last", "best"))
    directory = store.trial_dir(places.results, trial)
    with open(directory.model("fan") / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    best = min(rows, key=lambda row: float(row["validation_loss"]))["epoch"]
    saved = torch.load(directory.checkpoint("fan", "best"), weights_only=True)["asdray"]["history"]
    assert len(saved) == int(best)

    # The held-out vectors depend on neither the interruption nor chance.
    again = Places.of(tmp_path / "data", tmp_path / "again")
    train(TrialFiles.load(trial, again), unit)
    other = store.trial_dir(again.results, trial).checkpoint("fan", "last")
    weights = [torch.load(p, weights_only=True) for p in (other, directory.checkpoint("fan", "last"))]
    assert weights[0]["asdray"] == weights[1]["asdray"]

    import pyarrow.parquet as pq

    extract(TrialFiles.load(trial, places), "fan", "last")
    table = pq.read_table(directory.extract("last", "fan", "test"))
    assert table.column_names == ["clip", "embedding", "recon", "mahalanobis"]
    assert min(table["mahalanobis"].to_pylist()) > 0
    found = directory.extract("last", "fan", "test").read_bytes()
    extract(TrialFiles.load(trial, places), "fan", "last", overwrite=True)
    assert directory.extract("last", "fan", "test").read_bytes() == found
