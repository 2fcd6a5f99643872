"""Pseudo-labels: clusters of another system's embeddings as classes, by hand and in a sweep on Ray."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from golden.encoders.rules import noise
from sweeping import SMALL_DIS, World, spec, stages
from sweeping import asdray as run_asdray

from asdray import store
from asdray.config.clustering import Clustering
from asdray.config.system import System, load_recipe, with_overrides
from asdray.config.trial import Trial
from asdray.dcase.format import format_dataset
from asdray.dcase.manifest import load_manifest, rows
from asdray.dcase.synth import synthesise
from asdray.frontends import checkpoint
from asdray.stages.cluster import clusters
from asdray.stages.clustered import complete_clusters
from asdray.stages.steps import Snapshot, TrialFiles
from asdray.stages.train import train
from asdray.store import Places
from asdray.sweep.driver import in_training_order
from asdray.sweep.jobs import TrialRun
from asdray.sweep.keep import Pruner
from asdray.sweep.plan import load
from asdray.sweep.status import plan_lines
from asdray.sweep.tasks import process_machine

GOLDEN = np.load(Path(__file__).parent / "golden" / "encoders" / "clusters.npz")
DCASE, HIDDEN, TOLD = "dcase2025", "bearing", "fan"
PARTS = ["machine", "section", "attributes", "domain"]
DIS = load_recipe("dis_baseline").system


def clustering(**options):
    return Clustering.model_validate({"from": "raw_spec", **options})


def of(options, **changes):
    """The tiny discriminative system whose last part of a class is a clustering."""
    classes = [*PARTS, {"from": "raw_spec", **options}]
    return with_overrides(
        DIS, {**SMALL_DIS, "train.epochs": 1, "frontend.classes": classes, **changes}, "test"
    )


# ------------------------------------------------------------------------------------------ the clusters


def same_partition(one, other):
    return len({*zip(one, other, strict=True)}) == len({*one}) == len({*other})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("k8", {"n": 8}),
        ("k8", {"ratio": 0.032}),
        ("k5", {"n": 5}),
        ("ratio0.008", {"ratio": 0.008}),
        ("k8_target1", {"n": 8, "n_target": 1, "per": ["domain", "machine"]}),
    ],
)
def test_clusters_are_those_of_the_original_code(name, options):
    centres = 2 * noise("cluster centres", (9, 32))
    x = np.concatenate([centres[np.arange(240) % 8], np.tile(centres[8], (10, 1))])
    x = (x + 0.6 * noise("cluster features", (250, 32))).astype(np.float32)
    chosen = clustering(**options)
    by_domain = "domain" in chosen.per
    groups = [(0, ("source" if i < 240 else "target") if by_domain else "") for i in range(250)]
    found = clusters(x, groups, chosen)
    assert same_partition(found, GOLDEN[name].tolist())
    assert {*found} == {*range(len({*found}))}


def test_only_grouped_clips_have_a_cluster_and_small_groups_have_fewer():
    x = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    groups = [None, (0, "target"), (0, "source"), None, *[(0, "source")] * 7, (0, "target")]
    found = clusters(x, groups, clustering(n=3, per=["machine", "domain"]))
    assert [i for i, one in enumerate(found) if one is None] == [0, 3]
    assert {found[2], *found[4:11]} == {0, 1, 2}
    assert {found[1], found[11]} == {3, 4}, "two clips, a cluster for each"


@pytest.mark.parametrize(
    ("options", "n", "expected"),
    [({"ratio": 0.008}, 990, 7), ({"ratio": 0.008}, 10, 1), ({"n": 8}, 5, 5), ({}, 100, 8)],
)
def test_number_of_clusters(options, n, expected):
    assert clustering(**options).count(n, "source") == expected


# ------------------------------------------------------------------------------------------- the options


def test_the_hash_has_the_content_of_the_source(tmp_path):
    plain, raw = of({}), load_recipe("raw_spec").system
    assert plain.clustered.id == raw.id, "the source is the recipe's own system"
    copy = tmp_path / "mine.yaml"
    copy.write_text(yaml.safe_dump({"about": "copy", **raw.model_dump(mode="json")}))
    assert of({"from": str(copy)}).id == plain.id
    copy.write_text(
        yaml.safe_dump({"about": "other", **with_overrides(raw, {"frontend.n_mels": 8}, "x").model_dump()})
    )
    ids = {
        of(o).id
        for o in ({"from": str(copy)}, {"n": 4}, {"per": ["machine", "domain"]}, {"only": "all"}, {"seed": 1})
    }
    assert len({plain.id, DIS.id, *ids}) == 7
    assert System.model_validate(plain.model_dump(mode="json")).id == plain.id
    assert with_overrides(plain, {"frontend.classes.4.n": 4}, "x").id == of({"n": 4}).id


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"from": "lora_beats_cancel"}, "from: the recipe lora_beats_cancel has pseudo-labels itself: a clustering needs a source without"),
        ({"from": "dis_spec_featex_asdkit"}, "the source dis_spec_featex_asdkit reads the classes of the test clips"),
        ({"from": {"name": "raw_spek"}}, "name is 'raw_spek'; did you mean 'raw_spec'"),
        ({"from": "raw_spek"}, r"unknown recipe 'raw_spek'; did you mean 'raw_spec'\?"),
        ({"from": 3}, "from: 3 is neither the name of a recipe nor the options of a frontend"),
        ({"from": {"name": "precomputed"}}, "path is missing"),
        ({"n": 2, "ratio": 0.1}, "n and ratio exclude each other"),
        ({"n_target": 1}, r"n_target needs n, and per: \[machine, domain\]"),
        ({"per": ["domain"]}, r"frontend.classes.4.per: \['domain'\] lacks machine"),
        ({"embedding": "L12_mean"}, "frontend 'raw_spec' has no 'L12_mean'"),
        ({"clusters": 3}, r"unknown option 'frontend.classes.4.clusters' \(known here: source, embedding, per, n,"),
    ],
)  # fmt: skip
def test_bad_options_give_one_message(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        of(options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frontend.labels": "asdkit"}, "labels: asdkit reads the classes of the test clips, which have no clusters"),
        ({"frontend.classes": ["domain", {"from": "raw_spec"}]}, "a clustering needs machine in the list"),
        ({"frontend.classes": ["machine", {"from": "raw_spec"}, {"from": "raw_spec", "n": 2}]}, "more than one clustering"),
    ],
)  # fmt: skip
def test_classes_that_do_not_fit_a_clustering(changes, message):
    with pytest.raises(ValueError, match=message):
        of({}, **changes)


# --------------------------------------------------------------------------------------------- the stages


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("clusters")
    synthesise(root, DCASE, machines=[HIDDEN, TOLD], train=10, test=4, seconds=1.2, workers=1)
    format_dataset(root, DCASE)
    return root


def trained(system, places, seed=0):
    """A trained trial: its files, the classes that it knows, what was done for its clusters, and the clusters."""
    files = TrialFiles.load(Trial(DCASE, "dis", system, seed, (HIDDEN, TOLD)), places)
    (unit,) = files.trial.units
    every = list(complete_clusters(files, unit, device="cpu"))
    train(files, unit, device="cpu")
    saved = checkpoint.read(files.folder.checkpoint(unit.name, "last"))["asdray"]
    done = [made for made in every if made.stage == "cluster"]
    return SimpleNamespace(
        files=files, unit=unit, classes=saved["frontend"]["classes"], every=every, done=done
    )


def test_hidden_clips_get_classes_by_cluster(data, tmp_path):
    places = Places.of(data, tmp_path)
    made = trained(of({"n": 3, "per": ["machine", "domain"]}), places)
    assert [one.of for one in made.done] == [HIDDEN, TOLD]
    assert not any(one.outcome.reused for one in made.done)
    told = [name for name in made.classes if name.startswith(TOLD)]
    hidden = [name for name in made.classes if name.startswith(HIDDEN)]
    assert all(name.endswith("---noCluster") for name in told)
    numbers = {name.partition("cluster_")[2] for name in hidden}
    assert numbers == {"0", "1", "2", "3"}, "three of the source domain, and one of the only target clip"
    assert all(("---0---" if n[-1] in "012" else "---1---") in n.partition("noAttribute")[2] for n in hidden)
    source = made.files.clustered(made.unit.machines)
    table = pq.read_table(source.folder.clusters("last", HIDDEN, made.done[0].clustering))
    clips = rows(load_manifest(data, DCASE), machine=HIDDEN, split="train")["clip"].to_pylist()
    assert table["clip"].to_pylist() == clips, "training clips only"

    again = trained(made.files.trial.system, places, seed=1)
    assert [one.outcome.reused for one in again.done] == [True, True]
    assert trained(made.files.trial.system, places).done == [], "a complete training needs no clusters"


def test_training_depends_on_clusters_and_their_encoder_alone(data, tmp_path):
    places = Places.of(data, tmp_path)
    keys = rows(load_manifest(data, DCASE))["clip"].to_pylist()
    path = tmp_path / "e.npz"

    def write(seed):
        np.savez(path, clip=np.array(keys), embedding=np.random.default_rng(seed).normal(size=(len(keys), 3)))

    write(0)
    system = of({"from": {"name": "precomputed", "path": str(path)}, "n": 2, "only": "all"})
    made = trained(system, places)
    before = Snapshot(made.files).train(made.unit)
    assert before.complete
    machines = {
        m: replace(d, test="other", labels="other", classes="other")
        for m, d in made.files.dataset.machines.items()
    }
    of_other_tests = replace(made.files, dataset=replace(made.files.dataset, machines=machines))
    assert Snapshot(of_other_tests).train(made.unit).complete, "test clips and labels change nothing"
    write(1)
    assert Snapshot(made.files).train(made.unit).signature != before.signature
    with pytest.raises(ValueError, match="needs clusters of bearing by precomputed-.*missing or out of date"):
        train(made.files, made.unit, device="cpu")
    assert [one.outcome.reused for one in trained(system, places).done] == [False, False]


def test_pruned_embeddings_are_made_again(data, tmp_path):
    places = Places.of(data, tmp_path)
    made = trained(of({"n": 2}), places)
    source = made.files.clustered(made.unit.machines)
    for machine in made.unit.machines:
        folder = source.folder.machine("last", machine)
        record = store.read_record(folder, "extract")
        store.write_record(folder, "extract", replace(record, pruned=tuple(record.outputs)))
        for name in record.outputs:
            (folder / name).unlink()
    assert [one.outcome.reused for one in trained(of({"n": 2}), places, seed=1).done] == [True, True]
    assert [one.outcome.reused for one in trained(of({"n": 3}), places).done] == [False, False]


# ------------------------------------------------------------------------------- a source that learns


def learning(epochs=3, **options):
    """The options of a clustering whose source is a tiny network; ``options``: more of the clustering."""
    tree = with_overrides(DIS, {**SMALL_DIS, "train.epochs": epochs}, "test").model_dump(mode="json")
    return {"from": {"recipe": "taught", **tree}, "n": 2, "only": "all", **options}


def done(made):
    return [(one.stage, one.of, one.outcome.reused) for one in made.every]


def clustered(one):
    return [("cluster", machine, one) for machine in (HIDDEN, TOLD)]


def test_a_source_that_learns_is_trained_once_for_all_seeds(data, tmp_path):
    places = Places.of(data, tmp_path)
    first = trained(of(learning()), places, seed=1)
    unit = first.unit.name
    assert [d for d in done(first) if d[0] != "cluster"] == [
        ("train", unit, False), ("extract", HIDDEN, False), ("extract", TOLD, False),
    ]  # fmt: skip
    assert {one.trial.seed for one in first.every} == {0}, "the seed of a source that learns"
    assert done(trained(of(learning()), places, seed=2)) == clustered(True)
    other_count = done(trained(of(learning(n=3)), places))
    assert other_count == clustered(False), "the same embeddings"

    before = Snapshot(first.files).train(first.unit).signature
    longer = replace(first.files, trial=replace(first.files.trial, system=of(learning(epochs=4))))
    assert Snapshot(longer).train(first.unit).signature != before
    assert Snapshot(longer).train(first.unit).status == "missing"


def test_an_interrupted_training_of_the_source_goes_on(data, tmp_path):
    class Stop(Exception):  # noqa: N818 - what ends a training here is no error
        pass

    def stop(trial, facts):
        if facts["epoch"] == 2:
            raise Stop

    files = [
        TrialFiles.load(
            Trial(DCASE, "dis", of(learning()), 0, (HIDDEN, TOLD)), Places.of(data, tmp_path / name)
        )
        for name in ("cut", "whole")
    ]
    (unit,) = files[0].trial.units
    with pytest.raises(Stop):
        list(complete_clusters(files[0], unit, device="cpu", on_epoch=stop))
    found = []
    for one in files:
        list(complete_clusters(one, unit, device="cpu"))
        source = one.clustered(unit.machines)
        found.append([source.folder.extract("last", m, "train").read_bytes() for m in unit.machines])
    assert found[0] == found[1]
    log = files[0].clustered(unit.machines).folder.model(unit.name) / store.LOG_FILE
    assert "goes on after epoch 2" in log.read_text()


def test_the_fault_of_a_source_names_the_source(data, tmp_path):
    with pytest.raises(
        ValueError, match=r"taught-\w+ dcase2025 seed0, whose embeddings are clustered: .* is not finite"
    ):
        system = of(
            {**learning(), "from": {**learning()["from"], "train": {"epochs": 1, "learning_rate": 1e30}}}
        )
        trained(system, Places.of(data, tmp_path))


def test_a_sweep_leaves_a_source_alone_until_it_is_clustered(data, tmp_path):
    """`keep` of a sweep in which the source is a trial as well."""
    places = Places.of(data, tmp_path)
    options = learning()
    source = tmp_path / "taught.yaml"
    source.write_text(
        yaml.safe_dump({"about": "source", **{k: v for k, v in options["from"].items() if k != "recipe"}})
    )
    keep = {"checkpoints": "none", "embeddings": "none"}
    recipes = {
        str(source): {},
        "dis_baseline": {"set": asked_of(2, options)["recipes"]["dis_baseline"]["set"]},
    }
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(spec(**{**asked_of(2), "recipes": recipes, "seeds": [0], "keep": keep})))
    sweep, jobs = load(path, {}, places)
    runs = [TrialRun(i, job, job.remaining(sweep, places), asked=True) for i, job in enumerate(jobs)]
    assert [run.index for run in in_training_order(runs[::-1])] == [0, 1], "the source is trained first"
    lines = plan_lines(sweep, jobs, places)
    assert any(line.startswith(f"first, for pseudo-labels, {jobs[0].trial.title}: train ") for line in lines)

    pruner, stranger = Pruner(sweep, places), Pruner(sweep, places)
    for job in jobs:
        pruner.admit(job)
    source, files = jobs[0].files(places), jobs[1].files(places)
    (unit,) = jobs[1].trial.units
    train(source, unit, device="cpu")
    for machine in unit.machines:
        process_machine(source.trial, jobs[0].request(sweep), "last", machine, places, "cpu")
    kept = [source.folder.extract("last", TOLD, "train"), source.folder.checkpoint(unit.name, "last")]
    for made in complete_clusters(files, unit, device="cpu"):
        if made.of == HIDDEN:
            assert not pruner.prune(jobs[0]), "more of it is to be clustered"
            assert not stranger.prune(jobs[0]), "it is at work"
            assert all(path.exists() for path in kept)
    assert pruner.prune(jobs[0])
    assert not any(path.exists() for path in kept)
    assert [one.outcome.reused for one in complete_clusters(files, unit, device="cpu")] == [True, True]


# ---------------------------------------------------------------------------------------------- the sweep


def asked_of(n, options=None):
    classes = [*PARTS, {"from": "raw_spec", "n": n, "only": "all"} if options is None else options]
    small = {**SMALL_DIS, "train.epochs": 2, "frontend.classes": classes}
    machines = {DCASE: [HIDDEN, TOLD]}
    return {
        "recipes": {"dis_baseline": {"set": small}},
        "dcase": [DCASE],
        "machines": machines,
        "seeds": [0, 1],
    }


@pytest.mark.ray
def test_a_sweep_clusters_once_for_all_seeds(data, tmp_path):
    world = World(data, tmp_path / "results")

    def asked(n):
        return asked_of(n, learning(n=n))

    _, events = world.sweep(**asked(2))
    found = [e for e in events if e["recipe"] == "taught"]
    assert Counter(e["stage"] for e in found) == {"train": 1, "extract": 2, "cluster": 2}, (
        "once for two seeds"
    )
    assert sorted(e["machine"] for e in found if e["stage"] == "cluster") == [HIDDEN, TOLD]
    assert {(e["seed"], e["found"]) for e in found} == {(0, False)}
    assert (
        stages(events, recipe="dis_baseline")["train"] == stages(events, recipe="dis_baseline")["table"] == 2
    )
    assert {e["status"] for e in events} == {"done"}
    assert all("taught" not in text for text in world.tables().values()), (
        "the source is no trial of the sweep"
    )

    _, again = world.sweep(**asked(2))
    assert again == []

    def planned(n, **changes):
        (_, *command) = world.command(**{**asked(n), **changes})
        return run_asdray("sweep", *command, "--dry-run").stdout

    assert "left: 2 trainings, 4 machines to extract and score" in planned(3)
    assert "left: 0 trainings, 4 machines to extract and score" in planned(2, backends=["knn", "mahalanobis"])
    assert [e["stage"] for e in world.events()].count("cluster") == 2


def test_one_trial_by_hand(asdray, data, tmp_path):
    options = json.dumps([*PARTS, {"from": "raw_spec", "n": 2}])
    small = [
        part
        for k, v in {**SMALL_DIS, "train.epochs": 1}.items()
        for part in ("--set", f"{k}={json.dumps(v)}")
    ]
    code, out, err = asdray(
        "run", "dis_baseline", DCASE, "--machines", HIDDEN, *small, "--set", f"frontend.classes={options}",
        "--data", data, "--results", tmp_path, "--no-umap", "--device", "cpu",
    )  # fmt: skip
    assert code == 0, err
    assert f"cluster {HIDDEN} raw_spec-" in out
    (folder,) = tmp_path.glob("trials/*/dis_baseline-*/seed0")
    code, out, _ = asdray("train", folder, "--data", data, "--device", "cpu", "--overwrite")
    assert code == 0
    assert f"cluster {HIDDEN} raw_spec-" in out
    (source,) = tmp_path.glob("trials/*/raw_spec-*/seed0")
    assert asdray("extract", source, "--data", data, "--device", "cpu")[0] == 0
