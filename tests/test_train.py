"""Training: its files, results that do not depend on interruptions, and clear errors."""

from __future__ import annotations

import csv
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from finished import snapshot
from lightning.fabric.utilities.rank_zero import rank_zero_only
from tiny import AE, DCASE, DIS, EPOCHS, MACHINES, build_year, trial_of
from trees import build_tree, write_evaluator, write_list

from asdray import frontends, store
from asdray.audio.batches import Clips
from asdray.audio.cache import ensure_pack
from asdray.config.losses import SubclusterAdaCos
from asdray.config.system import System
from asdray.dcase.format import format_dataset
from asdray.dcase.manifest import load_dataset
from asdray.stages.columns import classes_of_test_clips, require_classes
from asdray.stages.steps import TrialFiles
from asdray.stages.train import TrainingDiverged, train
from asdray.store import Places

SYSTEMS = {"dis": DIS, "ae": AE}
WITH_BEST = ("last", "best", "epoch_2")


class Stop(Exception):  # noqa: N818 - what ends a training here is no error
    pass


def stop_after(epoch: int):
    def on_epoch(row: dict) -> None:
        if row["epoch"] == epoch:
            raise Stop

    return on_epoch


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    build_year(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory) -> Places:
    """Results of both systems, trained without interruption, one unit each.

    The process is a launcher's second one (RANK, SLURM_PROCID), in which Lightning's loggers write nothing by
    themselves.
    """
    places = Places.of(data, tmp_path_factory.mktemp("undisturbed"))
    for system in SYSTEMS.values():
        trial = trial_of(system)
        rank_zero_only.rank = 1
        assert not train(TrialFiles.load(trial, places), trial.units[0], checkpoints=WITH_BEST).reused
    return places


@pytest.fixture
def places(data, tmp_path) -> Places:
    return Places.of(data, tmp_path / "results")


def folder_of(places: Places, system: System, seed: int = 0) -> Path:
    trial = trial_of(system, seed)
    return store.trial_dir(places.results, trial).model(trial.units[0].name)


def checkpoint(places: Places, system: System, name: str = "last", seed: int = 0) -> dict:
    path = folder_of(places, system, seed) / "checkpoints" / f"{name}.ckpt"
    return torch.load(path, weights_only=True)


def assert_same(first: dict, second: dict) -> None:
    """Weights, batch-norm statistics, optimiser state and history: bit for bit."""
    assert list(first["state_dict"]) == list(second["state_dict"])
    for name, value in first["state_dict"].items():
        assert torch.equal(value, second["state_dict"][name]), name
    moments = [c["optimizer_states"][0]["state"] for c in (first, second)]
    for key, entry in moments[0].items():
        for name, value in entry.items():
            assert torch.equal(value, moments[1][key][name]), (key, name)
    assert first["asdray"] == second["asdray"]


def metrics(places: Places, system: System) -> list[dict[str, str]]:
    with open(folder_of(places, system) / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def without_times(rows: list[dict[str, str]]) -> list[tuple[str, ...]]:
    return [(row["epoch"], row["loss"], row["learning_rate"]) for row in rows]


# ----------------------------------------------------------------------------------------- what it leaves


@pytest.mark.parametrize("name", SYSTEMS)
def test_files_of_a_training(name, undisturbed):
    system = SYSTEMS[name]
    folder = folder_of(undisturbed, system)
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == [
        "best.ckpt",
        "epoch_2.ckpt",
        "last.ckpt",
    ]
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1
    hparams = yaml.safe_load((folder / "hparams.yaml").read_text())
    assert hparams["system"] == system.id
    assert hparams["train"]["batch_size"] == system.train.batch_size
    rows = metrics(undisturbed, system)
    assert list(rows[0]) == ["epoch", "loss", "learning_rate", "seconds", "per_second"]
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    losses = [float(row["loss"]) for row in rows]
    if name == "ae":  # there is little to learn about classes of noise
        assert losses[-1] < losses[0]
    assert len(checkpoint(undisturbed, system, "best")["asdray"]["history"]) == 1 + int(np.argmin(losses))
    assert len(checkpoint(undisturbed, system, "epoch_2")["asdray"]["history"]) == 2
    log = (folder / "train.log").read_text()
    assert len(re.findall(r"epoch \d of 4", log)) == EPOCHS
    assert log.endswith("done\n")
    assert not list(folder.rglob(".tmp-*"))


def test_the_record_says_what_was_trained(undisturbed):
    trial = trial_of(DIS)
    now = snapshot(trial, undisturbed)
    record = now.record(now.train(trial.units[0], WITH_BEST))
    assert record is not None
    assert record.device == ("cpu" if not torch.cuda.is_available() else record.device)
    extra = dict(record.extra)
    assert extra.pop("loss") == float(metrics(undisturbed, DIS)[-1]["loss"])
    # 3 machines x (2 attributes of source + 2 of target)
    assert extra.pop("n_classes") == 12
    assert extra.pop("parameters") > 0
    assert extra == {"epochs": EPOCHS, "n_clips": 18, "threads": 1}
    assert set(record.outputs) == {f"checkpoints/{c}.ckpt" for c in WITH_BEST} | {"metrics.csv"}


def test_events_hold_every_epoch_once(undisturbed):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder_of(undisturbed, DIS)))
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == [1, 2, 3, 4]
    found = [e.value for e in events.Scalars("loss")]
    assert found == pytest.approx([float(r["loss"]) for r in metrics(undisturbed, DIS)])


def test_the_loss_reported_is_the_mean_over_all_items(undisturbed):
    """A batch is weighted by its size: a batch of one item must not weigh as much as a full one."""
    trial = trial_of(AE)
    clips = Clips([ensure_pack(undisturbed, DCASE, trial.units[0].machines[0], "train")])
    module = frontends.build(AE.frontend, 6400)
    data = module.training_data(clips, {}, AE.train.batch_size, np.random.default_rng(0))
    assert data.sizes[-1] not in (1, AE.train.batch_size)
    assert sum(data.sizes) == 6 * (8000 // 128 + 1 - 4)  # whole clips, longer than audio.duration


# ------------------------------------------------------------------------------------------- interruption

STOPPED = """
import os, signal, sys
import asdray.stages.fit  # before the forks: one import serves all
assert not {{"matplotlib", "scipy"}} & set(sys.modules), "seconds of every training's start"
sys.path.insert(0, {tests!r})
from tiny import AE, DIS, trial_of
from asdray.cli import main
from asdray.config.backend import Knn
from asdray.frontends.autoencoder import AutoencoderFrontend
from asdray.stages.trial_json import write_trial
from asdray.stages.train import train
from asdray.stages.steps import Request, TrialFiles
from asdray.dcase.manifest import load_dataset
from asdray.store import Places

def in_a_child(work):
    child = os.fork()
    if child == 0:
        work()
        os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def on_epoch(row):
    if row["epoch"] == 2:
        os.kill(os.getpid(), signal.SIGKILL)

def killed(system):
    trial = trial_of(system)
    places = Places.of({data!r}, {results!r} + "/SIGKILL")
    train(TrialFiles.load(trial, places), trial.units[0], checkpoints={checkpoints!r}, on_epoch=on_epoch)

for system in (DIS, AE):
    assert in_a_child(lambda: killed(system)) == -signal.SIGKILL

def by_hand(signum):
    trial = trial_of(AE)
    places = Places.of({data!r}, {results!r} + "/" + signum.name)
    folder = write_trial(TrialFiles(trial, places, load_dataset(places.data, trial.dcase)), Request(("last",), (Knn(),)))
    loss, calls = AutoencoderFrontend.loss, 0

    def counted(self, batch):
        nonlocal calls
        calls += 1
        os.write(steps, str(calls).encode() + b" ")
        if calls == n_steps + 2:
            os.kill(os.getpid(), signum)
        return loss(self, batch)

    AutoencoderFrontend.loss = counted
    steps = os.open(places.results / "steps", os.O_WRONLY | os.O_CREAT)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(places.results / name, os.O_WRONLY | os.O_CREAT), number)
    try:
        main(["train", str(folder), "--machine", "ToyCar", "--data", {data!r}])
    except SystemExit as end:
        os._exit(end.code)

n_steps = {n_steps}
for signum in (signal.SIGTERM, signal.SIGINT):
    code = in_a_child(lambda: by_hand(signum))
    assert code == 75, (signum, code)
"""
N_STEPS = -(-6 * (8000 // 128 + 1 - 4) // AE.train.batch_size)
"""Of an epoch of the autoencoder: whole clips, longer than audio.duration."""


@pytest.fixture(scope="module")
def stopped(data, tmp_path_factory) -> Path:
    """Results of trainings that were ended by signals, in a folder per signal."""
    results = tmp_path_factory.mktemp("stopped")
    code = STOPPED.format(
        tests=str(Path(__file__).parent),
        data=str(data),
        results=str(results),
        checkpoints=WITH_BEST,
        n_steps=N_STEPS,
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    return results


def test_a_killed_training_goes_on_and_equals_an_undisturbed_one(undisturbed, stopped):
    places = Places.of(undisturbed.data, stopped / "SIGKILL")
    for system in SYSTEMS.values():
        trial = trial_of(system)
        folder = folder_of(places, system)
        assert len(checkpoint(places, system)["asdray"]["history"]) == 2
        (folder / "checkpoints" / ".tmp-1-1-last.ckpt").write_text("half")
        seen: list[dict] = []
        torch.manual_seed(99)
        outcome = train(
            TrialFiles.load(trial, places), trial.units[0], checkpoints=WITH_BEST, on_epoch=seen.append
        )
        assert not outcome.reused
        assert [row["epoch"] for row in seen] == [3, 4]
        assert {row["epochs"] for row in seen} == {EPOCHS}
        assert_same(checkpoint(places, system), checkpoint(undisturbed, system))
        assert_same(checkpoint(places, system, "best"), checkpoint(undisturbed, system, "best"))
        rows = metrics(places, system)
        assert without_times(rows) == without_times(metrics(undisturbed, system))
        assert all(float(row["seconds"]) > 0 for row in rows)
        assert len(list(folder.glob("events.out.tfevents.*"))) == 1
        assert not list(folder.rglob(".tmp-*"))
        assert "goes on after epoch 2" in (folder / "train.log").read_text()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_training_by_hand_at_once(signum, undisturbed, stopped):
    places = Places.of(undisturbed.data, stopped / signum.name)
    assert f"stopped; to go on: asdray train {places.results}" in (places.results / "stderr").read_text()
    steps = (places.results / "steps").read_text().split()
    assert len(steps) == N_STEPS + 2, "no step after that in which the signal came"
    trial = trial_of(AE)
    seen: list[dict] = []
    train(TrialFiles.load(trial, places), trial.units[0], on_epoch=seen.append)
    assert [row["epoch"] for row in seen] == [2, 3, 4]
    assert_same(checkpoint(places, AE), checkpoint(undisturbed, AE))


def test_a_finished_training_is_found_and_untouched(undisturbed):
    trial = trial_of(DIS)
    folder = folder_of(undisturbed, DIS)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    outcome = train(TrialFiles.load(trial, undisturbed), trial.units[0], on_epoch=stop_after(1))
    assert outcome.reused
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == before


def test_only_the_record_is_missing(undisturbed, places):
    """A training killed between its last checkpoint and its record is not repeated."""
    shutil.copytree(undisturbed.results, places.results)
    trial = trial_of(DIS)
    folder = folder_of(places, DIS)
    store.write_record(folder, "train", None)
    (folder / "metrics.csv").unlink()
    log = next(folder.glob("events.out.tfevents.*"))
    size = log.stat().st_size
    assert not train(TrialFiles.load(trial, places), trial.units[0], on_epoch=stop_after(1)).reused
    assert without_times(metrics(places, DIS)) == without_times(metrics(undisturbed, DIS))
    (again,) = folder.glob("events.out.tfevents.*")  # for TensorBoard, with every epoch
    assert again.stat().st_size > size / 2, "all but the times, which metrics.csv held"
    assert train(TrialFiles.load(trial, places), trial.units[0]).reused


def test_overwrite_and_a_damaged_checkpoint_start_afresh(undisturbed, places, capfd):
    trial = trial_of(DIS)
    path = folder_of(places, DIS) / "checkpoints" / "last.ckpt"
    with pytest.raises(Stop):
        train(TrialFiles.load(trial, places), trial.units[0], checkpoints=WITH_BEST, on_epoch=stop_after(3))
    path.write_bytes(path.read_bytes()[:1000])
    seen: list[dict] = []
    train(TrialFiles.load(trial, places), trial.units[0], checkpoints=WITH_BEST, on_epoch=seen.append)
    assert [row["epoch"] for row in seen] == [1, 2, 3, 4]
    original = folder_of(undisturbed, DIS) / "checkpoints" / "last.ckpt"
    assert path.read_bytes() == original.read_bytes(), "the same training writes the same bytes"

    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    threads = torch.get_num_threads()
    outcome = train(TrialFiles.load(trial, places), trial.units[0], overwrite=True, checkpoints=WITH_BEST)
    assert not outcome.reused
    assert path.read_bytes() == original.read_bytes()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert capfd.readouterr() == ("", ""), "no banners, tips or progress bars"


def test_other_data_starts_afresh(data, tmp_path):
    shutil.copytree(data, tmp_path / "data", ignore=shutil.ignore_patterns("cache"))
    places = Places.of(tmp_path / "data", tmp_path / "results")
    format_dataset(places.data, DCASE)  # the copies have their own times
    trial = trial_of(AE)
    unit = trial.units[0]
    with pytest.raises(Stop):
        train(TrialFiles.load(trial, places), unit, on_epoch=stop_after(2))
    wav = next((places.data / "original" / DCASE / "dev_data" / "raw" / "ToyCar" / "train").glob("*.wav"))
    wav.unlink()
    format_dataset(places.data, DCASE)
    seen: list[dict] = []
    outcome = train(TrialFiles.load(trial, places), unit, on_epoch=seen.append)
    assert [row["epoch"] for row in seen] == [1, 2, 3, 4]
    assert outcome.record.extra["n_clips"] == 5


def test_checkpoints_that_an_earlier_run_did_not_write(undisturbed, places):
    """A resumed training has all requested checkpoints, or starts afresh to write them."""
    trial = trial_of(AE)
    unit = trial.units[0]
    train(TrialFiles.load(trial, places), unit)
    assert not (folder_of(places, AE) / "checkpoints" / "best.ckpt").exists()
    seen: list[dict] = []
    assert not train(
        TrialFiles.load(trial, places), unit, checkpoints=("best", "epoch_2"), on_epoch=seen.append
    ).reused
    assert len(seen) == EPOCHS
    assert_same(checkpoint(places, AE, "best"), checkpoint(undisturbed, AE, "best"))
    assert_same(checkpoint(places, AE, "epoch_2"), checkpoint(undisturbed, AE, "epoch_2"))
    # Another run asks for other checkpoints: those of the first run stay, else both would train in turns.
    train(TrialFiles.load(trial, places), unit, checkpoints=("epoch_1",))
    assert train(TrialFiles.load(trial, places), unit, checkpoints=("best", "epoch_2")).reused
    assert train(TrialFiles.load(trial, places), unit, checkpoints=("epoch_1",)).reused
    # A best.ckpt of an epoch before the best one does not count.
    shutil.copyfile(
        folder_of(places, AE) / "checkpoints" / "epoch_2.ckpt",
        folder_of(places, AE) / "checkpoints" / "best.ckpt",
    )
    store.write_record(folder_of(places, AE), "train", None)
    train(TrialFiles.load(trial, places), unit, checkpoints=("best",))
    assert_same(checkpoint(places, AE, "best"), checkpoint(undisturbed, AE, "best"))


def test_seeds_and_units_differ(undisturbed, places):
    trial = trial_of(AE, seed=1)
    train(TrialFiles.load(trial, places), trial.units[0])
    first, second = checkpoint(undisturbed, AE), checkpoint(places, AE, seed=1)
    name = next(iter(first["state_dict"]))
    assert not torch.equal(first["state_dict"][name], second["state_dict"][name])


# -------------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("name", SYSTEMS)
def test_divergence_names_the_place_and_leaves_nothing_done(name, places):
    system = SYSTEMS[name]
    system = system.model_copy(update={"train": system.train.model_copy(update={"learning_rate": 1e38})})
    trial = trial_of(system)
    unit = trial.units[0]
    with pytest.raises(
        TrainingDiverged, match=rf"unit {unit.name} .*epoch 1, step \d of \d.*learning_rate"
    ) as error:
        train(TrialFiles.load(trial, places), unit)
    folder = folder_of(places, system)
    assert not (folder / "checkpoints" / "last.ckpt").exists()
    assert store.read_record(folder, "train") is None
    assert str(error.value) in (folder / "train.log").read_text()


def test_ctrl_c_raises_keyboard_interrupt(places):
    def on_epoch(row: dict) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    trial = trial_of(AE)
    with pytest.raises(KeyboardInterrupt):
        train(TrialFiles.load(trial, places), trial.units[0], on_epoch=on_epoch)
    assert signal.getsignal(signal.SIGINT) is before
    assert len(checkpoint(places, AE)["asdray"]["history"]) >= 1
    assert store.read_record(folder_of(places, AE), "train") is None


@pytest.mark.parametrize("in_main_thread", [True, False])
def test_a_training_keeps_the_handler_of_sigterm(in_main_thread, places):
    """Only the main thread may set a handler; a Tune worker trains in another thread."""

    def terminated(*_: object) -> None:
        raise Stop

    def on_epoch(row: dict) -> None:
        seen.append(signal.getsignal(signal.SIGTERM))

    seen: list = []
    trial = trial_of(AE)
    before = signal.signal(signal.SIGTERM, terminated)
    try:
        work = threading.Thread(
            target=train,
            args=(TrialFiles.load(trial, places), trial.units[0]),
            kwargs={"on_epoch": on_epoch},
        )
        (work.run if in_main_thread else work.start)()
        if not in_main_thread:
            work.join()
        assert signal.getsignal(signal.SIGTERM) is terminated
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [terminated] * EPOCHS
    assert train(TrialFiles.load(trial, places), trial.units[0]).reused


def test_too_few_classes(places):
    system = DIS.model_copy(update={"frontend": DIS.frontend.model_copy(update={"classes": ("machine",)})})
    trial = trial_of(system, machines=("fan", "bandsaw"))
    with pytest.raises(ValueError, match=r"2 classes.*subcluster_adacos"):
        train(TrialFiles.load(trial, places), trial.units[0])


def test_classes_of_the_test_clips_where_asked_for(tmp_path, asdray):
    """`labels: asdkit` knows every class of the year; the default neither reads nor signs classes of test clips."""
    machines = ("fan", "bandsaw")
    places = Places.of(tmp_path / "data", tmp_path / "results")
    tree = build_tree(places.data, DCASE, list(machines), {"source": 4, "target": 2}, n_samples=8000)
    format_dataset(places.data, DCASE)

    def of(**options):
        frontend = DIS.frontend.model_copy(update=options)
        return trial_of(DIS.model_copy(update={"frontend": frontend}), machines=machines)

    def signature(trial):
        return snapshot(trial, places).train(trial.units[0]).signature

    default, asdkit = of(), of(labels="asdkit")
    before = signature(default), signature(asdkit)
    with pytest.raises(ValueError, match=r"without ground truth \(bandsaw 4\): .*train_only"):
        train(TrialFiles.load(asdkit, places), asdkit.units[0])
    sections = of(labels="asdkit", classes=("machine", "section"), loss=SubclusterAdaCos())
    assert train(TrialFiles.load(sections, places), sections.units[0]).record.extra["n_classes"] == 2

    # Labels and domains without names, as in an evaluator: no class is guessed from them either.
    write_evaluator(tree, attributes=False)
    shutil.rmtree(tree.ground_truth / "ground_truth_data")
    format_dataset(places.data, DCASE)
    dataset = load_dataset(places.data, DCASE)
    says = r"not tell the attributes of some \(bandsaw 4\): put eval_data_list_2023.csv into .*ground_truth"
    for refusing in (
        lambda: train(TrialFiles.load(asdkit, places), asdkit.units[0]),
        lambda: require_classes(places.data, [(default, dataset), (asdkit, dataset)]),
    ):
        with pytest.raises(ValueError, match=says):
            refusing()
    require_classes(places.data, [(default, dataset), (of(labels="asdkit", classes=("domain",)), dataset)])
    spec = {
        "name": "x",
        "recipes": ["dis_spec_featex_asdkit"],
        "dcase": DCASE,
        "seeds": [0],
        "backends": ["knn"],
    }
    (tmp_path / "x.yaml").write_text(yaml.safe_dump({**spec, "machines": {DCASE: list(machines)}}))
    code, _, err = asdray("sweep", tmp_path / "x.yaml", "--data", places.data, "--results", tmp_path / "r")
    assert code == 2, "before Ray is started"
    assert re.search(says, err)

    write_list(tree)
    format_dataset(places.data, DCASE)
    assert signature(default) == before[0]
    assert signature(asdkit) != before[1]
    # Each machine and domain: vel_0 and vel_1 with m-n_W in training, vel_1_ac_0.30 in the test clips.
    assert train(TrialFiles.load(default, places), default.units[0]).record.extra["n_classes"] == 2 * 2 * 2
    assert train(TrialFiles.load(asdkit, places), asdkit.units[0]).record.extra["n_classes"] == 2 * 2 * 3
    path = store.trial_dir(places.results, asdkit).checkpoint(asdkit.units[0].name, "last")
    classes = torch.load(path, weights_only=True)["asdray"]["frontend"]["classes"]
    assert classes == sorted(
        f"{m}---0---{a}---{t}"
        for m in machines
        for a in ("vel_0_m-n_W", "vel_1_m-n_W", "vel_1_ac_0.30")
        for t in (0, 1)
    )


def test_attributes_that_the_labels_of_2022_do_not_tell_are_no_classes(tmp_path):
    tree = build_tree(tmp_path, "dcase2022", ["bearing", "ToyCar"], n_samples=800)
    write_list(tree)
    write_evaluator(tree)

    def classes(*parts, machines=("bearing", "ToyCar")):
        found = classes_of_test_clips(tmp_path, load_dataset(tmp_path, "dcase2022"), machines, parts)
        return set(zip(*found.values(), strict=True))

    format_dataset(tmp_path, "dcase2022")
    with pytest.raises(ValueError, match=r"\(ToyCar 12\): run `asdray format dcase2022 .*--labels asdkit`"):
        classes("machine", "attributes", "domain")
    assert classes("attributes", machines=("bearing",)) == {("vel_1_ac_0.30",)}
    assert len(classes("machine", "domain")) == 4
    format_dataset(tmp_path, "dcase2022", labels="asdkit")
    assert classes("attributes") == {("vel_1_ac_0.30",)}


@pytest.mark.parametrize("dcase", ["dcase2020", "dcase2021"])
def test_years_whose_test_names_carry_no_attributes_have_classes(tmp_path, dcase):
    tree = build_tree(tmp_path, dcase, ["fan"])
    write_list(tree)
    format_dataset(tmp_path, dcase)
    found = classes_of_test_clips(tmp_path, load_dataset(tmp_path, dcase), ["fan"], ["attributes"])
    assert found == {"attributes": [""]}


@pytest.mark.parametrize("name", ["first", "epoch_0", "epoch_5", "epoch_x"])
def test_unknown_checkpoints(name, places):
    trial = trial_of(AE)
    with pytest.raises(ValueError, match=name):
        train(TrialFiles.load(trial, places), trial.units[0], checkpoints=(name,))


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta"])
def test_unknown_devices(device, places):
    trial = trial_of(AE)
    with pytest.raises(ValueError, match=device):
        train(TrialFiles.load(trial, places), trial.units[0], device=device)


def test_logging_levels_are_restored(places):
    import lightning.pytorch  # noqa: F401 - sets its loggers up

    logger = logging.getLogger("lightning.pytorch")
    before = logger.level
    trial = trial_of(AE)
    train(TrialFiles.load(trial, places), trial.units[0])
    assert logger.level == before


# ------------------------------------------------------------------------------------------ the data it sees


def test_every_epoch_has_all_items_once_in_another_order(undisturbed):
    packs = [ensure_pack(undisturbed, DCASE, m, "train") for m in MACHINES]
    clips = Clips(packs)
    columns = {
        "machine": [m for m in MACHINES for _ in range(6)],
        "section": [0] * 18,
        "attributes": list("abcdef") * 3,
        "domain": ["source"] * 18,
    }
    module = frontends.build(DIS.frontend, 6400, columns=columns)
    data = module.training_data(clips, columns, 5, np.random.default_rng(0))
    orders = []
    for epoch in range(2):
        batches = list(data.epoch(np.random.default_rng(epoch)))
        assert tuple(len(b.samples) for b in batches) == data.sizes
        order = torch.cat([b.classes for b in batches]).tolist()
        assert sorted(order) == list(range(18))  # each clip has a class of its own here
        orders.append(order)
        for batch in batches:
            for samples, label in zip(batch.samples, batch.classes.tolist(), strict=True):
                i = [
                    f"{m}---0---{a}---0"
                    for m, a in zip(columns["machine"], columns["attributes"], strict=True)
                ]
                whole = packs[i.index(module.classes[label]) // 6].clip(i.index(module.classes[label]) % 6)[
                    :, 0
                ]
                windows = np.lib.stride_tricks.sliding_window_view(whole, 6400)
                assert (windows == samples.numpy()).all(axis=1).any()
    assert orders[0] != orders[1]


def test_vectors_are_those_of_the_clips_own_frames(undisturbed):
    clips = Clips([ensure_pack(undisturbed, DCASE, "fan", "train")])
    module = frontends.build(AE.frontend, 6400)
    data = module.training_data(clips, {}, 64, np.random.default_rng(0))
    found = torch.cat(list(data.epoch(np.random.default_rng(0))))
    waves = clips.gather(np.arange(6), int(clips.lengths[0])).float() / 32768
    frames = module.frames(waves)
    expected = torch.cat([f.unfold(0, 5, 1).transpose(1, 2).flatten(1) for f in frames])
    assert found.shape == expected.shape

    def rows_sorted(x):
        return x[np.lexsort(x.double().numpy().T)]

    torch.testing.assert_close(rows_sorted(found), rows_sorted(expected), rtol=1e-4, atol=1e-3)
    again = torch.cat(list(data.epoch(np.random.default_rng(1))))
    assert not torch.equal(found, again)
