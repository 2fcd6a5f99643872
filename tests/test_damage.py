"""Bits that change on disk, with size and time as before: every reader of ours notices, and work mends."""

import functools
import random
import shutil
from collections import Counter

import damage as world
import pytest
import tiny
from chaos.outcomes import Outcome, note

from asdray import damage, notes, store
from asdray.audio import cache
from asdray.config.sweep import Keep
from asdray.dcase.format import format_dataset
from asdray.dcase.manifest import load_manifest
from asdray.doctor.dataset import _results
from asdray.evaluation.tables import read_metrics, write_trials
from asdray.frontends import checkpoint
from asdray.stages.evaluate import read_scores
from asdray.stages.extract import read_extract
from asdray.stages.steps import Request, TrialFiles
from asdray.stages.trial_json import read_inputs, read_trial, write_trial
from asdray.sweep import outputs, progress
from asdray.sweep.estimate import Estimator
from asdray.sweep.events import EventLog, History, attempt, event_of
from asdray.sweep.jobs import Job
from asdray.sweep.verify import verify


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("damage")
    return world.build(root), root


@pytest.fixture
def places(built):
    """The places of the trial, whose files are afterwards as before."""
    places, root = built
    shutil.copytree(places.results, root / "copy", copy_function=shutil.copy2)
    yield places
    shutil.rmtree(places.results)
    (root / "copy").rename(places.results)


def readers(places):
    """Kind of file -> its reader; the values can be compared."""
    paths = world.files_of(places)

    def pack():
        cache._other_clips.cache_clear()  # a process compares a pack once
        found = cache._open(store.pack_dir(places.cache, tiny.DCASE, "fan", "train"), content_of(places))
        if found is None:
            raise ValueError(f"{paths['audio pack']} is built again")
        return found.samples.tobytes()

    def extracted():
        found = read_extract(paths["extract"])
        return found.clips, found.embedding.tobytes()

    def weights():
        found = checkpoint.read(paths["checkpoint"])  # as a training that goes on, which knows no hash
        return {name: value.numpy().tobytes() for name, value in found["state_dict"].items()}, str(
            found["asdray"]
        )

    return {
        "checkpoint": weights,
        "audio pack": pack,
        "extract": extracted,
        "scores": lambda: read_scores(paths["scores"]),
        "evaluate": lambda: damage.read_csv(paths["evaluate"]),
        "metrics": lambda: str(read_metrics(paths["metrics"]).to_pylist()),
        "manifest": lambda: str(load_manifest(places.data, tiny.DCASE).to_pylist()),
        "score view": lambda: damage.check(paths["score view"]),
        "official": lambda: damage.check(paths["official"]),
    }


def content_of(places):
    from asdray.dcase.manifest import load_dataset

    return cache._content(load_dataset(places.data, tiny.DCASE), "fan", "train", "near")


def counts(places, kind, times):
    read, path, rng = readers(places)[kind], world.files_of(places)[kind], random.Random(kind)
    expected, found = read(), Counter()
    for _ in range(times):
        undo = world.flip(path, rng)
        found[world.outcome(read, expected, path)] += 1
        undo()
    return found


KINDS = (
    "checkpoint",
    "audio pack",
    "extract",
    "scores",
    "evaluate",
    "metrics",
    "manifest",
    "score view",
    "official",
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_never_read_as_another_value(places, kind):
    found = counts(places, kind, 12)
    assert not found.keys() - {"same", "refused"}
    if kind != "checkpoint":  # a zip archive has bytes that mean nothing
        assert set(found) == {"refused"}


@pytest.mark.chaos
@pytest.mark.parametrize("kind", KINDS)
def test_two_hundred_flipped_bits(places, kind):
    found = counts(places, kind, 200)
    for outcome in found.elements():
        fine = outcome in ("same", "refused")
        note(Outcome("a bit flips, and our own reader reads", kind, fine, 0, fine))
    assert not found.keys() - {"same", "refused"}


def everything(places):
    """Content of every file that a stage has written, without times."""
    root = store.trial_dir(places.results, world.TRIAL).root
    files = (path for path in root.rglob("*") if path.suffix in (".parquet", ".csv", ".ckpt"))
    return {str(p.relative_to(root)): p.read_bytes() for p in files if p.name != store.EPOCHS_FILE}


def test_damaged_files_are_named_and_made_again_from_what_is_intact(places):
    root, before = store.trial_dir(places.results, world.TRIAL).root, everything(places)
    assert list(damage.below(root)) == []
    hurt = [path for path in world.files_of(places).values() if path.is_relative_to(root)]
    for path in hurt:
        world.flip(path, random.Random(0))
    found = list(damage.below(root))
    assert {fault.path for fault in found} == set(hurt)
    for fault in found:
        damage.forget(fault)
    assert not any(path.exists() for path in hurt)
    assert world.complete(places) == {"train": 1, "extract": 1, "score": 1, "evaluate": 1, "table": 1}
    assert everything(places) == before


def test_a_stage_that_reads_a_damaged_file_names_it_and_the_next_call_makes_it_again(places):
    before, paths = everything(places), world.files_of(places)
    files = TrialFiles.load(world.TRIAL, places)
    store.write_record(files.folder.root, "table", None)
    for kind, stages in (("evaluate", ["evaluate", "table"]), ("scores", ["score", "evaluate", "table"])):
        world.flip(paths[kind], random.Random(1))
        if kind == "scores":
            store.write_record(paths[kind].parents[1], "evaluate", None)
        with pytest.raises(
            damage.DamagedError, match=f"{paths[kind].name} is damaged .its content is not what"
        ):
            world.complete(places)
        assert list(world.complete(places)) == stages
        assert everything(places) == before
        store.write_record(files.folder.root, "table", None)


def test_a_file_that_changes_with_its_record_meanwhile_is_not_damaged(places, monkeypatch):
    path = world.files_of(places)["scores"]
    owner = damage.owner_of(path)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    asked = []

    def remade(found):  # between the two looks at the record, a process has made the scores anew
        asked.append(found)
        return owner if len(asked) == 1 else None

    monkeypatch.setattr(damage, "owner_of", remade)
    damage.check(path)
    assert len(asked) == 3


def test_a_manifest_of_an_older_release_has_no_hash_and_is_read(places):
    path = store.dataset_path(places.data, tiny.DCASE)
    content = path.read_text()
    path.write_text(
        "\n".join(line for line in content.splitlines() if '"sha256"' not in line).replace('",\n}', '"\n}')
    )
    assert load_manifest(places.data, tiny.DCASE)
    path.write_text(content)


def test_a_damaged_pack_is_named_and_decoded_again(places, capfd):
    path = world.files_of(places)["audio pack"]
    before = path.read_bytes()
    assert cache.ensure_pack(places, tiny.DCASE, "fan", "train").samples.tobytes() in before
    world.flip(path, random.Random(0))
    cache._other_clips.cache_clear()
    notes._told.clear()
    pack = cache.ensure_pack(places, tiny.DCASE, "fan", "train")
    assert path.read_bytes() == before
    assert pack.samples.tobytes() in before
    assert f"{path.parent}/pack.json or its samples are damaged (1 of 6 clips" in capfd.readouterr().err


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": 1}', "null", None, "fbn/train"])
def test_an_index_of_another_shape_is_a_damaged_pack(places, content):
    path = store.pack_dir(places.cache, tiny.DCASE, "fan", "train") / "pack.json"
    before = path.read_bytes()
    path.unlink()
    if content == "fbn/train":  # a flipped bit in the name of a clip
        content = before.decode().replace("fan/train", content, 1)
    path.mkdir() if content is None else path.write_text(content)
    cache.ensure_pack(places, tiny.DCASE, "fan", "train")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": 3, "machines": []}', '{"format": 3, "machines": {"fan": 1}}']
)
def test_a_summary_of_another_shape_is_named(places, content):
    path = store.dataset_path(places.data, tiny.DCASE)
    before = path.read_bytes()
    path.write_text(content)
    with pytest.raises(ValueError, match=r"dataset\.json is damaged, or was .*asdray format dcase2023"):
        load_manifest(places.data, tiny.DCASE)
    format_dataset(places.data, tiny.DCASE)
    assert path.read_bytes() == before


# ------------------------------------------------------------------------------------- everything against its record


def test_verify_names_what_is_damaged_and_lets_it_count_as_missing(places):
    root, paths = store.trial_dir(places.results, world.TRIAL).root, world.files_of(places)
    files = TrialFiles.load(world.TRIAL, places)
    job = Job(world.TRIAL, {}, files.dataset, (world.BACKEND,))
    asked = functools.partial(verify, "demo", [job], places)
    assert asked(forget=False) == []
    world.flip(paths["extract"], random.Random(0))
    paths["scores"].unlink()
    broken = root / "output" / world.CKPT / "bandsaw" / store.RECORDS
    broken.write_text("[]")
    cache._other_clips.cache_clear()
    undo = world.flip(paths["audio pack"], random.Random(0))
    expected = [
        f"damaged: {broken} (Input should be an object)",
        f"damaged: {paths['extract']} (its content is not what was written)",
        f"damaged: {paths['scores']} (is not there)",
        f"damaged: decoded audio in {paths['audio pack'].parent}",
    ]
    assert asked(forget=False) == expected
    assert paths["extract"].exists()
    assert asked(forget=True) == expected
    assert not paths["extract"].exists()
    undo()
    assert world.complete(places) == {"extract": 2, "score": 2, "evaluate": 1}
    assert asked(forget=False) == []


def test_doctor_names_damaged_results(places):
    path = world.files_of(places)["official"]
    world.flip(path, random.Random(0))
    (found,) = _results(places, tiny.DCASE)
    assert found.kind == "wrong"
    assert found.text.startswith(
        f"{path} is damaged (its content is not what was written): run `asdray table`"
    )


def test_a_run_makes_again_what_is_found_damaged_for_the_first_time(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    path = tmp_path / "train_extract.parquet"

    def damaged():
        raise damage.DamagedError(path, "its content is not what was written")

    event = attempt(event_of(world.TRIAL, "score", machine="fan"), damaged)
    log.add(event)
    assert (event["damaged"], event["lasting"]) == (str(path), False)
    assert not log.failures
    assert [log.take_damaged(), log.take_damaged()] == [True, False]
    log.add(event)  # damaged once more: the disk does not hold what is written
    assert log.failures == [event]
    assert not log.take_damaged()
    assert not EventLog(tmp_path / "events.jsonl").lasting


def test_an_event_takes_along_what_was_mended(capfd):
    notes._told.clear()

    def work():
        notes.tell("pack.json is damaged")
        notes.tell("pack.json is damaged")
        raise ValueError("another fault")

    event = attempt(event_of(world.TRIAL, "extract", machine="fan"), work)
    assert event["notes"] == ["pack.json is damaged"]
    assert capfd.readouterr().err == "pack.json is damaged\n"
    again = attempt(event_of(world.TRIAL, "extract", machine="fan"), work)
    assert "notes" not in again


# ------------------------------------------------------------------------------------------------ state of another shape

SHAPES = (
    "",
    "{",
    "null",
    "1",
    "[]",
    "{}",
    '{"running": 1, "plugins": 1}',
    '{"records": {"train": []}}',
    '{"a": ' + "[" * 5000,
)


@pytest.mark.parametrize("content", SHAPES)
def test_state_of_another_shape_counts_as_none(places, tmp_path, content):
    folder = store.SweepDir(tmp_path / "demo")
    for path in (folder.status, folder.events, folder.spec, folder.trials):
        store.write_text(path, content)
    assert progress.read_snapshot(folder.root) is None
    assert not History(folder.events).failed
    assert outputs.last_trials(folder.root) is None
    assert outputs.last_keep(folder.root) in (None, Keep())
    trial = store.trial_dir(places.results, world.TRIAL)
    store.write_text(trial.trial_json, content)
    assert read_inputs(trial) == {}
    with pytest.raises(ValueError, match=r"trial\.json is damaged"):
        read_trial(trial.root)
    files = TrialFiles.load(world.TRIAL, places)
    leftover = trial.root / f".tmp-1-2-{trial.trial_json.name}"
    leftover.write_text("half")
    write_trial(files, Request((world.CKPT,), (world.BACKEND,)))
    assert read_trial(trial.root)[0].name == world.TRIAL.name
    assert not leftover.exists()


@pytest.mark.parametrize("name", ["status", "events", "trials", "trial_json"])
def test_a_folder_in_the_place_of_a_state_file_is_moved_aside(places, tmp_path, name):
    folder, trial = store.SweepDir(tmp_path / "demo"), store.trial_dir(places.results, world.TRIAL)
    path = trial.trial_json if name == "trial_json" else getattr(folder, name)
    path.unlink(missing_ok=True)
    path.mkdir(parents=True)
    if name == "status":
        assert progress.read_snapshot(folder.root) is None
        progress.write_snapshot({"running": []}, folder.root)
    elif name == "events":
        assert not History(path).failed
        EventLog(path).add(attempt(event_of(world.TRIAL, "train"), lambda: 1 // 0))
    elif name == "trials":
        assert outputs.last_trials(folder.root) is None
        write_trials([], folder.root)
    else:
        write_trial(TrialFiles.load(world.TRIAL, places), Request((world.CKPT,), (world.BACKEND,)))
    assert path.is_file()
    assert len(list(path.parent.glob(f"{path.name}.folder-*"))) == 1


@pytest.mark.parametrize(
    "name", [".lease", "metrics.csv", "train.log", "hparams.yaml", "events.out.tfevents.1"]
)
def test_a_folder_in_the_place_of_a_file_of_a_training_is_moved_aside(places, name):
    folder = store.trial_dir(places.results, world.TRIAL).model(world.TRIAL.units[0].name)
    before = everything(places)
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    assert not store.is_leased(folder)
    store.write_record(folder, "train", None)
    assert world.complete(places) == {"train": 1}
    assert everything(places) == before
    assert len(list(folder.glob(f"{name}.folder-*"))) == 1


def test_a_snapshot_is_read_as_it_is_written(tmp_path):
    row = {
        "system": "s", "backend": "b", "checkpoint": "last", "column": "eval_hmean", "score": 0.5,
        "dataset": "official", "complete": True,
    }  # fmt: skip
    training = {
        "trial": "t", "unit": "all", "epoch": 1, "epochs": 2, "loss": 0.5, "clips_per_second": 2.0, "seconds_left": 3.0,
    }  # fmt: skip
    written = progress.Progress("demo", [], Estimator({})).snapshot()
    written |= {"leaderboard": [row], "training": [training]}
    progress.write_snapshot(written, tmp_path)
    assert progress.read_snapshot(tmp_path) == written


@pytest.mark.chaos
def test_a_flipped_bit_of_the_list_of_trials_gives_no_other_trial(tmp_path):
    row = {
        "dcase": "dcase2023", "recipe": "r", "system": "r-12345678", "seed": 0, "part": "grid", "swept": {}, "status": "done",
        "seconds": {"train": 1.0}, "device": "cpu", "error": None, "directory": "trials/a", "dataset": "official",
    }  # fmt: skip
    write_trials([{**row, "seed": seed} for seed in range(20)], tmp_path)
    path, rng, expected = store.SweepDir(tmp_path).trials, random.Random(0), outputs.last_trials(tmp_path)
    found = Counter()
    for _ in range(200):
        undo = world.flip(path, rng)
        seen = outputs.last_trials(tmp_path)
        found["refused" if seen is None else "same" if seen == expected else "other"] += 1
        undo()
    for outcome in found.elements():
        fine = outcome != "other"
        note(Outcome("a bit flips, and our own reader reads", path.name, fine, 0, fine))
    assert not found["other"]
