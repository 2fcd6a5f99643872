"""Extraction: embeddings and own scores of every clip, equal bytes in every run, no Lightning, no labels."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from finished import finished, snapshot
from tiny import AE, DCASE, DIS, MACHINES, build_year, trial_of
from trees import build_tree

from asdray import store
from asdray.config.trial import Trial
from asdray.dcase.format import format_dataset
from asdray.dcase.manifest import load_manifest, rows
from asdray.frontends import checkpoint
from asdray.stages.extract import extract
from asdray.stages.steps import TrialFiles
from asdray.stages.train import train
from asdray.store import Places

N_SAMPLES = 6400


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Places:
    """A year with two trained systems: one model for all machines, one model for a single machine."""
    root = tmp_path_factory.mktemp("extract")
    build_year(root / "data")
    places = Places.of(root / "data", root / "results")
    for system in (DIS, AE):
        trial = trial_of(system)
        train(TrialFiles.load(trial, places), trial.unit_of("bandsaw"))
    return places


def _paths(places: Places, system) -> list[Path]:
    directory = store.trial_dir(places.results, trial_of(system))
    return [directory.extract("last", "bandsaw", split) for split in ("train", "test")]


@pytest.mark.parametrize(("system", "dim", "own"), [(DIS, 11, []), (AE, 3, ["recon"])], ids=["dis", "ae"])
def test_extraction(system, dim, own, places):
    trial = trial_of(system)
    outcome = extract(TrialFiles.load(trial, places), "bandsaw", "last")
    assert not outcome.reused
    manifest = load_manifest(places.data, DCASE)
    for split, path in zip(("train", "test"), _paths(places, system), strict=True):
        table = pq.read_table(path)
        assert table.schema == pa.schema(
            [
                ("clip", pa.string()),
                ("embedding", pa.list_(pa.float32(), dim)),
                *((s, pa.float64()) for s in own),
            ]
        )
        expected = rows(manifest, machine="bandsaw", split=split)
        assert table["clip"].to_pylist() == expected["clip"].to_pylist()
        # Expected: clip by clip from the WAV files, with the same weights.
        path = store.trial_dir(places.results, trial).checkpoint(trial.unit_of("bandsaw").name, "last")
        module = checkpoint.load(path, system.frontend, N_SAMPLES)
        for row, original in zip(table.to_pylist(), expected["original_path"].to_pylist(), strict=True):
            wave, _ = soundfile.read(places.data / original, dtype="float32")
            assert len(wave) > N_SAMPLES
            with torch.no_grad():
                found = module.extract(torch.from_numpy(wave[None, :N_SAMPLES].copy()))
            np.testing.assert_allclose(row["embedding"], found["embedding"][0].numpy(), rtol=1e-3, atol=1e-4)
            for score in own:
                assert row[score] == pytest.approx(found[score].item(), rel=1e-4)
    table = pq.read_table(_paths(places, system)[1])
    values = table["recon"].to_pylist() if own else [tuple(e) for e in table["embedding"].to_pylist()]
    assert len(set(values)) == 4, "clips differ"


def test_extraction_repeats_byte_for_byte_and_is_found(places):
    trial = trial_of(DIS)
    first = extract(TrialFiles.load(trial, places), "bandsaw", "last", overwrite=True)
    content = [path.read_bytes() for path in _paths(places, DIS)]
    again = extract(TrialFiles.load(trial, places), "bandsaw", "last")
    assert again.reused
    assert again.record == first.record
    torch.manual_seed(3)
    assert not extract(TrialFiles.load(trial, places), "bandsaw", "last", overwrite=True).reused
    assert [path.read_bytes() for path in _paths(places, DIS)] == content
    assert first.record.extra["n_clips"] == {"train": 6, "test": 4}


def test_the_shared_model_serves_every_machine(places):
    trial = trial_of(DIS)
    for machine in MACHINES:
        assert extract(TrialFiles.load(trial, places), machine, "last").record.extra["n_clips"]


def test_lightning_is_not_imported(places):
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from tiny import AE, trial_of\n"
        "from asdray.stages.extract import extract\n"
        "from asdray.stages.steps import TrialFiles\n"
        "from asdray.store import Places\n"
        "import json\n"
        f"places = Places.of({str(places.data)!r}, {str(places.results)!r})\n"
        "assert not extract(TrialFiles.load(trial_of(AE), places), 'bandsaw', 'last', overwrite=True).reused\n"
        "heavy = ('lightning', 'torchmetrics', 'ray', 'sklearn', 'umap', 'matplotlib', 'tensorboard')\n"
        "print(json.dumps([m for m in heavy if m in sys.modules]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == []


@pytest.mark.parametrize("channel", ["far", "difference"])
def test_extraction_reads_the_channel_of_the_training(channel, tmp_path):
    places = Places.of(tmp_path / "data", tmp_path / "results")
    build_tree(places.data, "dcase2026", ["fan"], n_samples=7000)
    format_dataset(places.data, "dcase2026")
    system = AE.model_copy(update={"audio": AE.audio.model_copy(update={"channel": channel})})
    trial = Trial("dcase2026", "ae", system, 0, ("fan",))
    train(TrialFiles.load(trial, places), trial.units[0])
    extract(TrialFiles.load(trial, places), "fan", "last")
    directory = store.trial_dir(places.results, trial)
    module = checkpoint.load(directory.checkpoint("fan", "last"), system.frontend, N_SAMPLES)
    table = pq.read_table(directory.extract("last", "fan", "test"))
    originals = rows(load_manifest(places.data, "dcase2026"), machine="fan", split="test")["original_path"]
    for score, original in zip(table["recon"].to_pylist(), originals.to_pylist(), strict=True):
        wave, _ = soundfile.read(places.data / original, dtype="float32")
        mono = wave[:, 1] if channel == "far" else wave[:, 0] - wave[:, 1]
        with torch.no_grad():
            found = module.extract(torch.from_numpy(mono[None, :N_SAMPLES].copy()))
        assert score == pytest.approx(found["recon"].item(), rel=1e-4)


# -------------------------------------------------------------------------------------------- what goes wrong


def test_without_training_the_error_names_the_command(places):
    with pytest.raises(ValueError, match="asdray train .*seed7"):
        extract(TrialFiles.load(trial_of(AE, seed=7), places), "bandsaw", "last")
    with pytest.raises(ValueError, match=r"'best'.*asdray train .* --ckpt best"):
        extract(TrialFiles.load(trial_of(AE), places), "bandsaw", "best")


def _retrained(places: Places, tmp_path: Path) -> tuple[Places, Path]:
    """Another training, whose checkpoint a test may damage."""
    mine = Places(places.data, tmp_path / "results", places.cache)
    trial = trial_of(AE, seed=1)
    unit = trial.unit_of("bandsaw")
    train(TrialFiles.load(trial, mine), unit)
    return mine, store.trial_dir(mine.results, trial).checkpoint(unit.name, "last")


def test_a_damaged_checkpoint_is_named(places, tmp_path):
    mine, path = _retrained(places, tmp_path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged .*asdray train"):
        extract(TrialFiles.load(trial_of(AE, seed=1), mine), "bandsaw", "last")


def test_values_that_are_not_finite_name_their_clip(places, tmp_path):
    mine, path = _retrained(places, tmp_path)
    trial = trial_of(AE, seed=1)
    value = torch.load(path, weights_only=True)
    value["state_dict"]["frontend.network.decoder.0.weight"][0, 0] = float("nan")
    torch.save(value, path)
    finished(snapshot(trial, mine).train(trial.unit_of("bandsaw")), [path])
    with pytest.raises(ValueError, match=r"recon of eval/bandsaw/train/section_00_\S+\.wav is not finite"):
        extract(TrialFiles.load(trial, mine), "bandsaw", "last")
    extract_folder = store.trial_dir(mine.results, trial).machine("last", "bandsaw")
    assert store.read_record(extract_folder, "extract") is None


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"\x80\x02N.", b"x" * 5000])
def test_damaged_checkpoints_are_refused(content, tmp_path):
    path = tmp_path / "last.ckpt"
    with pytest.raises(ValueError, match="no checkpoint"):
        checkpoint.read(path)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged"):
        checkpoint.read(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="not a checkpoint of asdray"):
        checkpoint.read(path)
