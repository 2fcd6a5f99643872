"""Supplemental clips in training: as classes, as noise, in signatures, and where there are none."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from finished import snapshot
from tiny import DIS

from asdray import frontends
from asdray.audio.batches import Clips
from asdray.config.frontend import SupplementalNoise
from asdray.config.losses import ArcFace, ClassHead
from asdray.config.trial import Trial
from asdray.dcase.format import format_dataset
from asdray.dcase.synth import synthesise
from asdray.frontends.augment import add_noise, draw_noise
from asdray.stages.columns import training_columns, training_packs
from asdray.stages.steps import TrialFiles
from asdray.stages.train import train
from asdray.store import Places

DCASE, MACHINES = "dcase2025", ("fan", "gearbox")
"""The supplemental clips of fan are noise alone, those of gearbox the machine alone, 4 each."""


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Places:
    folder = tmp_path_factory.mktemp("supplemental")
    places = Places.of(folder / "data", folder / "results")
    synthesise(places.data, DCASE, machines=list(MACHINES), train=6, test=4, seconds=0.5)
    format_dataset(places.data, DCASE)
    return places


def _trial(supplemental, machines=MACHINES, dcase=DCASE, **options) -> Trial:
    frontend = DIS.frontend.model_copy(update={"supplemental": supplemental, **options})
    return Trial(dcase, "dis", DIS.model_copy(update={"frontend": frontend}), 0, machines)


def _data(places, trial):
    """The frontend and its training data, with the columns of all clips that training reads."""
    files, config = TrialFiles.load(trial, places), trial.system.frontend
    packs = training_packs(files, trial.units[0])
    columns, clips = training_columns(places, packs), Clips(packs)
    module = frontends.build(config, 6400, columns=columns, seed=1)
    return module, module.training_data(clips, columns, 32, np.random.default_rng(0)), columns


NOISE = SupplementalNoise(snr=(0, 10), probability=0.7)


def test_supplemental_clips_are_classes_of_their_own(places):
    heads = (ClassHead(classes=("domain",), loss=ArcFace()),)
    module, data, columns = _data(places, _trial("classes", heads=heads))
    assert columns["supplemental"] == [""] * 12 + ["noise"] * 4 + ["machine"] * 4
    plain, without, _ = _data(places, _trial(None, heads=heads))
    assert {*module.classes} - {*plain.classes} == {"fan---supplemental", "gearbox---supplemental"}
    assert module.head_classes == (("0", "1", "supplemental"),)
    assert (sum(data.sizes), sum(without.sizes)) == (20, 12)
    (batch,) = data.epoch(np.random.default_rng(0))
    names = [module.classes[c] for c in batch.classes.tolist()]
    assert (names.count("fan---supplemental"), names.count("gearbox---supplemental")) == (4, 4)
    assert batch.noise is None


def test_noise_is_added_to_training_clips(places):
    module, data, columns = _data(places, _trial(NOISE, mixup_probability=0.0))
    plain, without, _ = _data(places, _trial(None, mixup_probability=0.0))
    assert module.classes == plain.classes
    (batch,), (clean,) = (d.epoch(np.random.default_rng(3)) for d in (data, without))
    assert batch.classes.shape == (12,), "clips of noise are not trained on"
    assert {columns["supplemental"][i] for i in data.noises} == {"noise"}
    assert batch.noise.snr.isinf().any()
    module.eval()
    with torch.no_grad():
        waves = batch.samples / 32768
        for wave, noise, snr in zip(waves, batch.noise.samples / 32768, batch.noise.snr, strict=True):
            if snr < np.inf:
                wave += noise * (wave.square().mean() / noise.square().mean()).sqrt() / 10 ** (snr / 20)
        targets = torch.eye(len(module.classes))[batch.classes]
        torch.testing.assert_close(module.loss(batch), module.head(module(waves), targets))
    assert clean.noise is None


def test_ratios_of_noise():
    noise, snr = draw_noise(np.random.default_rng(0), 20_000, 7, (-5.0, 15.0), 0.5)
    assert (noise.min(), noise.max(), snr.dtype) == (0, 6, np.float32)
    mixed = snr[np.isfinite(snr)]
    assert len(mixed) / len(snr) == pytest.approx(0.5, abs=0.02)
    np.testing.assert_allclose(np.quantile(mixed, [0, 0.5, 1]), [-5, 5, 15], atol=0.4)
    waves, other = torch.randn(3, 400), torch.randn(3, 400)
    other[2] = 0
    found = add_noise(waves, other, torch.tensor([6.0, torch.inf, 6.0]))
    added = found[0] - waves[0]
    assert 10 * torch.log10(waves[0].square().mean() / added.square().mean()) == pytest.approx(6.0, abs=1e-3)
    assert torch.equal(found[1:], waves[1:]), "without noise, or with silent noise, not a bit changes"


@pytest.mark.parametrize("supplemental", ["classes", NOISE], ids=["classes", "noise"])
def test_training_reads_them(places, tmp_path, supplemental):
    trial = _trial(supplemental)
    files = TrialFiles.load(trial, Places.of(places.data, tmp_path))
    assert train(files, trial.units[0]).record.extra["n_clips"] == 20


def test_signatures_know_the_clips_only_where_they_are_read(places, tmp_path):
    copy = Places.of(tmp_path / "data", tmp_path / "results")
    shutil.copytree(places.data, copy.data, symlinks=True)

    def signatures(places):
        return [
            snapshot(t, places).train(t.units[0]).signature for t in map(_trial, (None, "classes", NOISE))
        ]

    before = signatures(places)
    assert signatures(copy) == before
    next(copy.data.glob("original/**/gearbox/supplemental/*.wav")).unlink()
    format_dataset(copy.data, DCASE)
    after = signatures(copy)
    assert after[0] == before[0]
    assert after[1] != before[1]
    assert after[2] != before[2]
    for folder in copy.data.glob("original/**/supplemental"):
        shutil.rmtree(folder)
    format_dataset(copy.data, DCASE)
    with pytest.raises(ValueError, match="formatted without supplemental clips of fan, gearbox: get the"):
        training_packs(TrialFiles.load(_trial(NOISE), copy), _trial(NOISE).units[0])


def test_years_and_machines_without_such_clips_are_refused(places):
    with pytest.raises(ValueError, match=r"dcase2023: frontend.supplemental .* no supplemental clips.*2025"):
        _trial("classes", dcase="dcase2023").system.check("dcase2023")
    with pytest.raises(ValueError, match="no supplemental clip of these machines is noise"):
        _data(places, _trial(NOISE, machines=("gearbox",)))
    with pytest.raises(ValueError, match="smallest ratio, then the largest"):
        SupplementalNoise(snr=(5, 0))
