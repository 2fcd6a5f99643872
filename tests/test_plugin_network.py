"""A plugin's network as a branch of the discriminative frontend."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from no_plugins import forget_plugins
from tiny import DIS, MACHINES, build_year, trial_of

from asdray import frontends
from asdray.config.base import load_plugins
from asdray.config.expand import expand
from asdray.config.files import validate
from asdray.config.sweep import Sweep
from asdray.config.system import with_overrides
from asdray.frontends.augment import mix
from asdray.frontends.plugin_branch import PluginBranch
from asdray.stages.extract import extract, read_extract
from asdray.stages.steps import TrialFiles
from asdray.stages.train import train
from asdray.store import Places, sha256_file

EXAMPLE = Path(__file__).parent / "network_example.py"
OWN = {"name": "band_rnn", "embedding_dim": 4, "hidden": 6, "n_fft": 256}
COLUMNS = {"machine": "abc", "section": (0,) * 3, "attributes": ("",) * 3, "domain": ("source",) * 3}


@pytest.fixture(autouse=True)
def _plugin():
    load_plugins([EXAMPLE])
    yield
    forget_plugins()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("network")
    build_year(root)
    return root


def system(*branches, **options):
    kept = [b.model_dump() for b in DIS.frontend.branches]
    return with_overrides(DIS, {"frontend.branches": [*branches, *kept], "train.epochs": 2, **options}, "x")


def built(config, saved=None):
    return frontends.build(config.frontend, 6400, columns=None if saved else COLUMNS, saved=saved)


def test_its_output_is_a_part_of_the_embedding_at_its_place():
    frontend = built(system(OWN)).eval()
    waves = torch.randn(3, 6400)
    network = frontend.branches[0].network
    assert type(frontend.branches[0]) is PluginBranch
    part = network.out(network.rnn(network.view(waves))[1][0])
    embedding = frontend.extract(waves)["embedding"]
    assert embedding.shape == (3, 4 + 5 + 6)
    torch.testing.assert_close(embedding[:, :4], part)
    assert not any("window" in name for name in frontend.state_dict())


def test_mixup_of_spectrograms_mixes_the_view():
    network = built(system(OWN)).branches[0]
    waves, partner, share = torch.randn(3, 6400), torch.tensor([1, 2, 0]), torch.tensor([0.9, 0.5, 1.0])
    view = network.network.view(waves)
    torch.testing.assert_close(network(waves, (partner, share)), network.network(mix(view, partner, share)))


def test_its_check_and_length_hold_before_training():
    with pytest.raises(ValueError, match="clips of 1600 samples are shorter than n_fft 2048"):
        system({**OWN, "n_fft": 2048}, **{"audio.duration": 0.1}).check("dcase2023")
    with pytest.raises(ValueError, match=r"frontend.branches.0.hiddn'; did you mean 'hidden'"):
        system({"name": "band_rnn", "hiddn": 3})
    with pytest.raises(ValueError, match=r"branches.0.name is 'band_rn'; did you mean 'band_rnn'"):
        system({"name": "band_rn"})


def test_its_options_are_axes_and_its_file_is_part_of_the_id(tmp_path):
    spec = {
        "name": "toy",
        "recipes": {
            "dis_baseline": {
                "space": {"frontend.branches.0.hidden": [4, 6]},
                "set": {"frontend.branches": [OWN]},
            }
        },
        "dcase": ["dcase2023"],
        "seeds": [0],
    }

    def ids():
        return [trial.system.id for trial, _ in expand(validate(Sweep, spec, "x"), "x")]

    first, plain = ids(), DIS.id
    assert len(set(first)) == 2
    path = tmp_path / "network.py"
    path.write_text(EXAMPLE.read_text())
    load_plugins([path])
    assert ids() == first
    path.write_text(path.read_text() + "# changed\n")
    load_plugins([path])
    assert not {*ids()} & {*first}
    assert with_overrides(DIS, {}, "x").id == plain


class Killed(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_killed_training_goes_on_to_the_same_bytes(precision, data, tmp_path):
    options = {"train.precision": precision, "frontend.mixup_of": "spectrogram", "train.epochs": 3}
    trial = trial_of(system(OWN, **options))

    def files(name):
        return TrialFiles.load(trial, Places.of(data, tmp_path / name, data / "cache"))

    def killed(news):
        if news["epoch"] == 2:
            raise Killed

    (unit,) = trial.units
    train(files("straight"), unit)
    with pytest.raises(Killed):
        train(files("killed"), unit, on_epoch=killed)
    train(files("killed"), unit)
    paths = [files(name).folder.checkpoint(unit.name, "last") for name in ("straight", "killed")]
    assert sha256_file(paths[0]) == sha256_file(paths[1])
    extract(files("killed"), MACHINES[0], "last")
    found = read_extract(files("killed").folder.extract("last", MACHINES[0], "test"))
    assert found.embedding.shape == (4, 4 + 5 + 6)
