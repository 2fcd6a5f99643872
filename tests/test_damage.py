"""Bits that change on disk, with size and time as before: every reader of ours notices, and work mends."""

import random
import shutil
from collections import Counter

import damage as world
import pytest
import tiny

from asdray import damage, notes, store
from asdray.audio import cache
from asdray.dcase.format import format_dataset
from asdray.dcase.manifest import load_manifest
from asdray.evaluation.tables import read_metrics
from asdray.frontends import checkpoint
from asdray.stages.evaluate import read_scores
from asdray.stages.extract import read_extract
from asdray.stages.steps import TrialFiles


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
    print(f"\n{kind}: {dict(found)}")
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


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": 1}', "null", None])
def test_an_index_of_another_shape_is_a_damaged_pack(places, content):
    path = store.pack_dir(places.cache, tiny.DCASE, "fan", "train") / "pack.json"
    before = path.read_bytes()
    path.unlink()
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
