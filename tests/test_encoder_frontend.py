"""Shipped recipes of encoders through all stages, with made-up weights in files of the published form."""

import hashlib

import numpy as np
import pandas as pd
import pytest
import torch
from encoders_made_up import aisfx_names, beats_names, by_rule, waves
from test_encoders import GOLDEN
from tiny import DCASE, build_year, trial_of

from asdray import frontends
from asdray.config.backend import Beam, Knn, backend_id
from asdray.config.encoder import Encoder
from asdray.config.sweep import Sweep
from asdray.config.system import Audio, System, load_recipe, with_overrides
from asdray.frontends.encoder import EncoderFrontend
from asdray.stages.evaluate import evaluate
from asdray.stages.extract import extract, read_extract
from asdray.stages.score import score
from asdray.stages.steps import Request, TrialFiles
from asdray.stages.train import train
from asdray.stages.trial_json import write_trial
from asdray.store import Places
from asdray.sweep.jobs import Job
from asdray.sweep.outputs import write_results


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("encoder")
    build_year(root / "data")
    (root / "data" / "encoders").mkdir()
    torch.save({"cfg": {}, "model": by_rule(beats_names())}, root / "data" / "encoders" / "made-up.pt")
    return Places.of(root / "data", root / "results")


def trial_with(recipe, **changes):
    changes = {f"frontend.{name}": value for name, value in changes.items()}
    return trial_of(with_overrides(load_recipe(recipe).system, changes, "x"))


def test_bands_of_beats_are_scored_by_beam(places):
    trial = trial_with("frozen_beats_bands", weights="encoders/made-up.pt")
    files = TrialFiles.load(trial, places)
    train(files, trial.unit_of("fan"))
    extract(files, "fan", "last")
    found = read_extract(files.folder.extract("last", "fan", "test"))
    assert {name: x.shape[1:] for name, x in found.embeddings.items()} == {"L12_bands_rdp_4": (8, 768)}
    score(files, "fan", "last", Beam(varmin=2))
    evaluate(files, "fan", "last", [Beam(varmin=2)])
    scores = pd.read_parquet(files.folder.scores("last", "fan", backend_id(Beam(varmin=2))))["score"]
    assert np.isfinite(scores).all()
    assert scores.nunique() == len(scores)


def test_the_frontend_gives_the_references_whatever_the_batch(places):
    config = Encoder(network="beats", weights="x.pt", layers=(4, 12), poolings=["mean", "max"])
    paths = {"encoder": {"fan": places.data / "encoders" / "made-up.pt"}}
    frontend = frontends.build(config, 32_000, columns={}, files=paths)
    with torch.inference_mode():
        together = frontend.extract(waves(2, (0, 1)))
        alone = frontend.extract(waves(2, (1,)))
    assert list(together) == ["L4_mean", "L4_max", "L12_mean", "L12_max"]
    golden = GOLDEN["beats"]["c2_L12_mean"]
    np.testing.assert_allclose(together["L12_mean"][0].numpy(), golden, atol=3e-5)
    for name, value in alone.items():
        np.testing.assert_allclose(together[name][1:].numpy(), value.numpy(), atol=1e-4)


def test_weights_of_another_network_are_found_before_any_extraction(places):
    trial = trial_with("raw_eat", weights="encoders/made-up.pt")
    files = TrialFiles.load(trial, places)
    with pytest.raises(ValueError, match="holds weights of the network 'beats', not of 'eat'"):
        train(files, trial.unit_of("fan"))


def test_weights_of_the_same_file_name_are_computed_again(tmp_path):
    build_year(tmp_path / "data")
    places = Places.of(tmp_path / "data", tmp_path / "results")
    state = by_rule(aisfx_names())
    for folder in "ab":
        (tmp_path / "data" / folder).mkdir()
        torch.save(state, tmp_path / "data" / folder / "mine.pt")
        state = {
            name: value * 1.1 if name.endswith("conv1.weight") else value for name, value in state.items()
        }
    recipes = {"x": {"set": {"frontend.weights": "a/mine.pt"}}}
    sweep = Sweep(
        name="x", recipes=recipes, dcase=[DCASE], seeds=[0], backends=[Knn()], machines={DCASE: ["fan"]}
    )

    def results_of(folder):
        """Embeddings and scores of the test clips, which stages are reused, and the leaderboard's last note."""
        config = Encoder(network="aisfx", weights=f"{folder}/mine.pt")
        trial = trial_of(System(frontend=config, audio=Audio(duration=1.2)), machines=("fan",))
        files = TrialFiles.load(trial, places)
        write_trial(files, Request(("last",), (Knn(),), False))
        done = (
            train(files, trial.unit_of("fan")),
            extract(files, "fan", "last"),
            score(files, "fan", "last", Knn()),
        )
        scores = pd.read_parquet(files.folder.scores("last", "fan", backend_id(Knn())))["score"].to_numpy()
        found = read_extract(files.folder.extract("last", "fan", "test")).embedding
        board = write_results(sweep, [Job(trial, {}, files.dataset, (Knn(),))], places)
        return files.folder.root, found, scores, [outcome.reused for outcome in done], board.notes[-1]

    folder, first, scores, reused, note = results_of("a")
    assert reused == [False] * 3
    sha256 = hashlib.sha256((tmp_path / "data/a/mine.pt").read_bytes()).hexdigest()
    assert note == f"Weights of the unknown file mine.pt (sha256 {sha256[:16]}): ae."
    assert results_of("a")[3] == [True] * 3
    other_folder, second, other_scores, reused, other_note = results_of("b")
    assert reused == [False] * 3
    assert other_folder == folder
    assert np.abs(second - first).max() > 1e-3
    assert not np.array_equal(other_scores, scores)
    assert "mine.pt" in other_note
    assert other_note != note
    *_, again, scores_again, reused, _ = results_of("a")
    assert reused == [False] * 3
    np.testing.assert_array_equal(again, first)
    np.testing.assert_array_equal(scores_again, scores)


def test_limits_of_token_values():
    config = Encoder(network="beats", weights="x.pt", clamp_min=0.1, spike=0.5)
    grid = torch.tensor([-1.0, 0.1, 0.5, 0.6, 9.0])
    found = EncoderFrontend(config).limited(grid)
    expected = [0.1, 0.1, 0.5, 0.5 + np.tanh(0.1), 0.5 + np.tanh(8.5)]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
