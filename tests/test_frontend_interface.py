"""A new kind of frontend from a plugin: a frozen encoder with a trained head.

All stages run the frontend without a change elsewhere: the encoder's weights come from a file whose content
enters the training's signature, checkpoints leave the encoder out, and the two layers of the head have
different learning rates.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from finished import snapshot
from no_plugins import forget_plugins
from test_train import assert_same
from tiny import MACHINES, build_year, trial_of

from asdray import store
from asdray.config.backend import Knn
from asdray.config.base import load_plugins
from asdray.config.files import validate
from asdray.config.system import System
from asdray.config.trial import Trial
from asdray.frontends import checkpoint
from asdray.stages.evaluate import evaluate
from asdray.stages.extract import extract
from asdray.stages.input_files import input_paths
from asdray.stages.score import score
from asdray.stages.steps import TrialFiles
from asdray.stages.train import train
from asdray.store import Places

PLUGIN = '''
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asdray.audio.batches import split
from asdray.audio.features import to_float
from asdray.config.frontend_base import FrontendConfig, InputFile
from asdray.frontends.base import FrontendModule


class EncoderConfig(FrontendConfig):
    name: Literal["own_encoder"] = "own_encoder"
    weights: str
    scope: ClassVar = "all"

    def input_files(self, dcase, machine, seed):
        return (InputFile("encoder", "weights", self.weights),)


def encoder():
    return nn.Sequential(nn.Linear(32, 512), nn.BatchNorm1d(512), nn.ReLU())


class Encoder(FrontendModule):
    """Band energies through a frozen encoder and a trained head, which learns to tell machines apart."""

    frozen = ("encoder",)

    def __init__(self, config, n_samples, columns, saved):
        super().__init__()
        self.n_samples = n_samples
        self.machines = sorted(set(columns["machine"])) if saved is None else saved["machines"]
        self.encoder = encoder()
        self.head = nn.Sequential(nn.Linear(512, 4), nn.Dropout(0.1))
        self.classifier = nn.Linear(4, len(self.machines))

    def load_frozen(self, files):
        (path,) = set(files["encoder"].values())
        self.encoder.load_state_dict(torch.load(path, weights_only=True))

    def parameter_groups(self, options):
        fast = {"params": list(self.classifier.parameters()), "lr": 10 * options.learning_rate}
        return [{"params": list(self.head.parameters())}, fast]

    def saved(self):
        return {"machines": self.machines}

    def training_data(self, clips, columns, batch_size, rng):
        labels = np.array([self.machines.index(machine) for machine in columns["machine"]])
        return Labelled(clips, labels, self.n_samples, batch_size)

    def forward(self, waves):
        energies = F.adaptive_avg_pool1d(torch.fft.rfft(waves).abs(), 32).log1p()
        return self.head(self.encoder(energies))

    def loss(self, batch):
        return F.cross_entropy(self.classifier(self(to_float(batch.waves))), batch.labels)

    def extract(self, waves):
        return {"embedding": self(waves)}


class Batch(NamedTuple):
    waves: Tensor
    labels: Tensor


class Labelled:
    items = "clips"

    def __init__(self, clips, labels, n_samples, batch_size):
        self.clips, self.labels, self.n_samples = clips, labels, n_samples
        self.batches = split(len(clips), batch_size)
        self.sizes = tuple(b.stop - b.start for b in self.batches)

    def epoch(self, rng):
        order = rng.permutation(len(self.clips))
        for batch in self.batches:
            index = order[batch]
            yield Batch(self.clips.gather(index, self.n_samples), torch.from_numpy(self.labels[index]))

    def held_out(self):
        yield from ()


FRONTENDS = [(EncoderConfig, Encoder)]
'''
FROZEN_BYTES = 4 * (32 * 512 + 5 * 512)
EPOCHS = 3


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    build_year(folder)
    return folder


@pytest.fixture
def places(data, tmp_path) -> Places:
    return Places.of(data, tmp_path / "results", data / "cache")


@pytest.fixture(autouse=True)
def _plugin(tmp_path):
    path = tmp_path / "encoder.py"
    path.write_text(PLUGIN)
    load_plugins([path])
    yield
    forget_plugins()


def weights(seed: int) -> dict[str, torch.Tensor]:
    """The state dict of an encoder, in place of weights from another project."""
    rng = torch.Generator().manual_seed(seed)
    linear = {"0.weight": torch.randn(512, 32, generator=rng), "0.bias": torch.randn(512, generator=rng)}
    norm = {
        "1.weight": torch.ones(512),
        "1.bias": torch.zeros(512),
        "1.running_mean": torch.randn(512, generator=rng),
        "1.running_var": torch.rand(512, generator=rng) + 0.5,
        "1.num_batches_tracked": torch.tensor(7),
    }
    return {**linear, **norm}


def trial_with(path: Path | str) -> Trial:
    options = {"epochs": EPOCHS, "batch_size": 8, "learning_rate": 0.01}
    frontend = {"name": "own_encoder", "weights": str(path)}
    return trial_of(
        validate(System, {"frontend": frontend, "train": options, "audio": {"duration": 0.4}}, "x")
    )


def last_of(places: Places, trial: Trial) -> Path:
    return store.trial_dir(places.results, trial).checkpoint(trial.units[0].name, "last")


@pytest.fixture
def trial(tmp_path) -> Trial:
    path = tmp_path / "weights.pt"
    torch.save(weights(0), path)
    return trial_with(path)


def test_a_checkpoint_holds_only_the_trained_part(trial, places):
    outcome = train(TrialFiles.load(trial, places), trial.units[0])
    assert not outcome.reused
    path = last_of(places, trial)
    found = checkpoint.read(path)
    assert list(found["state_dict"]) == [
        "frontend.head.0.weight",
        "frontend.head.0.bias",
        "frontend.classifier.weight",
        "frontend.classifier.bias",
    ]
    assert path.stat().st_size < FROZEN_BYTES
    assert [group["lr"] for group in found["optimizer_states"][0]["param_groups"]] == [0.01, 0.1]
    assert len(found["optimizer_states"][0]["state"]) == 4, "the encoder has no optimiser state"

    files = input_paths(trial, trial.units[0], places)
    loaded = checkpoint.load(path, trial.system.frontend, 6400, files=files)
    for name, value in weights(0).items():
        assert torch.equal(loaded.encoder.state_dict()[name], value), f"{name}: as in the file"
    assert not any(p.requires_grad for p in loaded.encoder.parameters())
    assert not loaded.train().encoder.training
    assert loaded.head.training


def test_a_resumed_training_equals_an_undisturbed_one(trial, places, tmp_path):
    class Stop(Exception):  # noqa: N818 - an interruption is no error
        pass

    def stop(row: dict) -> None:
        if row["epoch"] == 2:
            raise Stop

    train(TrialFiles.load(trial, places), trial.units[0])
    other = Places.of(places.data, tmp_path / "other", places.cache)
    with pytest.raises(Stop):
        train(TrialFiles.load(trial, other), trial.units[0], on_epoch=stop)
    seen: list[dict] = []
    train(TrialFiles.load(trial, other), trial.units[0], on_epoch=seen.append)
    assert [row["epoch"] for row in seen] == [3]
    resumed, undisturbed = (checkpoint.read(last_of(p, trial)) for p in (other, places))
    assert_same(resumed, undisturbed)
    groups = [c["optimizer_states"][0]["param_groups"] for c in (resumed, undisturbed)]
    assert groups[0] == groups[1]


def test_extraction_scoring_and_evaluation(trial, places):
    for unit in trial.units:
        train(TrialFiles.load(trial, places), unit)
    directory = store.trial_dir(places.results, trial)
    for machine in ("ToyCar", "fan"):
        assert not extract(TrialFiles.load(trial, places), machine, "last").reused
        assert extract(TrialFiles.load(trial, places), machine, "last").reused
        table = pq.read_table(directory.extract("last", machine, "test"))
        embeddings = np.stack(table["embedding"].to_numpy())
        assert embeddings.shape == (4, 4)
        assert np.ptp(embeddings, axis=0).min() > 0
        score(TrialFiles.load(trial, places), machine, "last", Knn())
        evaluate(TrialFiles.load(trial, places), machine, "last", [Knn()])
        rows = pd.read_csv(directory.evaluate("last", machine))
        assert len(rows)
    assert trial.system.frontend.modules, "a worker warms up for it"


def test_other_weights_are_another_training(trial, places):
    unit = trial.units[0]
    path = Path(trial.system.frontend.weights)
    train(TrialFiles.load(trial, places), unit)
    assert train(TrialFiles.load(trial, places), unit).reused
    extract(TrialFiles.load(trial, places), "fan", "last")
    first, signature = (
        last_of(places, trial).read_bytes(),
        snapshot(trial, places).train(unit).signature,
    )

    torch.save(weights(1), path)
    assert snapshot(trial, places).train(unit).signature != signature
    assert not snapshot(trial, places).train(unit, ("last",)).complete
    with pytest.raises(ValueError, match="no finished training"):
        extract(TrialFiles.load(trial, places), "fan", "last")
    seen: list[dict] = []
    assert not train(TrialFiles.load(trial, places), unit, on_epoch=seen.append).reused
    assert len(seen) == EPOCHS, "from the first epoch"
    assert last_of(places, trial).read_bytes() != first
    assert not extract(TrialFiles.load(trial, places), "fan", "last").reused


def test_input_files_are_found_and_missed_by_name(places):
    torch.save(weights(0), places.data / "encoder.pt")
    relative = trial_with("encoder.pt")
    (unit,) = relative.units
    expected = {"encoder": dict.fromkeys(MACHINES, places.data / "encoder.pt")}
    assert input_paths(relative, unit, places) == expected
    missing = trial_with("none.pt")
    with pytest.raises(
        ValueError, match=r"recipe \w+: frontend.weights: cannot read .*none.pt: No such file"
    ):
        train(TrialFiles.load(missing, places), missing.units[0])
