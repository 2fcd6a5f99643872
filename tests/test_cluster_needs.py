"""Checks of a cluster before a sweep begins, without Ray: impossible requests, unfit nodes."""

from collections import Counter
from types import SimpleNamespace

import pytest

from asdray.config.files import validate
from asdray.config.sweep import Resources, Sweep
from asdray.config.system import load_recipe, with_overrides
from asdray.config.trial import Trial
from asdray.store import Places
from asdray.sweep.cluster import Cluster
from asdray.sweep.nodes import check, faults_of, why_refused

MIXED = Cluster(((16.0, 0.0), (4.0, 1.0)))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"train": {"cpu": 17}},
            r"resources.train.cpu asks for 17, but the largest node .* has 16.*in all there are 20 CPUs and 1 GPUs",
        ),
        ({"umap": {"gpu": 2}}, r"resources.umap.gpu asks for 2, but the largest node of this Ray has 1"),
        (
            {"train": {"cpu": 8, "gpu": 0.5}},
            r"resources.train asks for 8 CPUs and 0.5 GPUs, but no node of this Ray has both "
            r"\(4 CPUs, 1 GPUs; 16 CPUs, 0 GPUs\)",
        ),
        ({"extract": {"cpu": 5}, "score": {"gpu": 1}}, r"resources.extract asks for 5 CPUs and 1 GPUs"),
    ],
)
def test_what_no_node_ever_has_is_said_with_what_there_is(asked, message):
    with pytest.raises(ValueError, match=message):
        MIXED.needs(Resources.model_validate(asked), threads=1)


def test_parts_of_gpus_are_fine_and_parts_of_several_are_not():
    assert MIXED.needs(Resources.model_validate({"train": {"cpu": 4, "gpu": 0.25}}), 1)["train"].gpu == 0.25
    big = Cluster(((8.0, 8.0),))
    assert big.needs(Resources.model_validate({"train": {"gpu": 2}}), 1)["train"].gpu == 2
    for kind in ("train", "umap"):
        with pytest.raises(ValueError) as caught:
            validate(Resources, {kind: {"gpu": 1.5}}, "w")
        assert str(caught.value) == (
            f"w: {kind}.gpu: 1.5 GPUs cannot be had, above 1 they are whole numbers: ask for 1 or 2, or for a "
            "part of one (0.5)"
        )


def test_what_is_left_out_is_chosen_as_where_nothing_is_asked_for():
    cpus, gpus = Cluster(((16.0, 0.0),)), Cluster(((16.0, 2.0),))

    def needs(cluster, **asked):
        found = cluster.needs(Resources.model_validate(asked), threads=8)
        return [(need.cpu, need.gpu) for need in found.values()]

    nothing = (0, 0)
    assert needs(gpus, train={"cpu": 4}) == [(4, 1), nothing, nothing]
    assert needs(gpus, train={"gpu": 0.25}) == [(8, 0.25), nothing, nothing]
    assert needs(gpus, train={"cpu": 4, "gpu": 0}) == [(4, 0), nothing, nothing], "who wants none says so"
    assert needs(gpus, train={}) == needs(gpus)
    assert needs(cpus, train={"cpu": 4}) == [(4, 0), nothing, nothing]
    asked = {"train": {"cpu": 4}, "extract": {"gpu": 0.25}, "umap": {"cpu": 1}}
    assert needs(gpus, **asked) == [(4, 0.75), (0, 0.25), (1, 0)]
    # The GPU is where fewer CPUs are than a training has threads.
    assert needs(MIXED, train={"gpu": 0.5}) == [(4, 0.5), nothing, nothing]
    with pytest.raises(
        ValueError, match=r"asks for 16 CPUs and 1 GPUs, but no node .* both .*gpu: 0 for none"
    ):
        needs(MIXED, train={"cpu": 16})


def test_what_sweep_yaml_says_of_reservations_chooses_as_the_users_file():
    for asked in ({"train": {"cpu": 4}}, {"train": {"gpu": 0.0}, "umap": {"cpu": 1.0}}, {"train": {}}):
        written = Resources.model_validate(asked).model_dump(mode="json")
        assert {kind: need for kind, need in written.items() if need is not None} == asked


@pytest.mark.parametrize("train", [{"cpu": 0}, {"cpu": 0.00001}, {"cpu": 0, "gpu": 0}])
def test_a_training_that_would_reserve_nothing_is_refused_before_ray_starts(train):
    spec = {"name": "s", "recipes": ["raw_spec"], "dcase": ["dcase2023"], "seeds": [0]}
    message = r"^w: resources.train: cpu is .*: set resources.train.cpu to 1 or more"
    with pytest.raises(ValueError, match=message):
        validate(Sweep, {**spec, "resources": {"train": train}}, "w")


def test_a_training_may_do_without_cpus_where_it_has_something_else():
    for train in ({"cpu": 0, "gpu": 0.5}, {"cpu": 0, "per_node": 2}):
        Resources.model_validate({"train": train})


def test_a_ray_without_any_cpu_is_said():
    bare = Cluster(((0.0, 0.0),))
    with pytest.raises(ValueError, match="none of this Ray's 1 nodes has a CPU to train on: add nodes"):
        bare.needs(Resources(), threads=1)


def ray_of(monkeypatch, **cpus):
    """Replaces the nodes of Ray, by name and CPUs; returns the nodes, open to changes."""
    import ray

    nodes = {n: {"NodeID": n, "Alive": True, "Resources": {"CPU": c} if c else {}} for n, c in cpus.items()}
    monkeypatch.setattr(ray, "nodes", lambda: list(nodes.values()))
    return nodes


def test_tasks_go_to_nodes_with_cpus_as_many_as_they_have(monkeypatch):
    from asdray.sweep import tasks

    now = [0.0]
    monkeypatch.setattr(tasks.time, "monotonic", lambda: now[0])
    there = ray_of(monkeypatch, head=0, a=2, b=6)
    nodes, running = tasks.NodeChooser(), []
    for _ in range(8):
        running.append(nodes.least_busy(running))
    assert Counter(running) == {"a": 2, "b": 6}
    running.remove("a")
    assert nodes.least_busy(running) == "a", "where one ended"

    there["b"]["Alive"] = False
    there["c"] = {**there["a"], "NodeID": "c"}
    now[0] += tasks.NODES_SECONDS
    assert {nodes.least_busy([]), nodes.least_busy(["a"])} == {"a", "c"}, "nodes that join and die"


@pytest.mark.parametrize("cpus", [{"only": 2}, {"head": 0, "gpus": 0}])
def test_ray_chooses_where_there_is_no_choice(monkeypatch, cpus):
    from asdray.sweep.tasks import NodeChooser

    ray_of(monkeypatch, **cpus)
    assert NodeChooser().least_busy([]) is None


@pytest.mark.parametrize("per_node", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("nodes", [((16.0, 0.0),), ((16.0, 4.0), (64.0, 0.0)), ((16.0, 1.0), (5.0, 1.0))])
def test_no_more_trainings_than_asked_for_fit_on_a_node(nodes, per_node):
    gpus = max(gpus for _, gpus in nodes)
    cluster = Cluster(nodes)
    asked = Resources.model_validate({"train": {"per_node": per_node}})
    need = cluster.needs(asked, threads=1)["train"]
    assert (need.gpu > 0) == (gpus > 0)
    trains = [node for node in nodes if node[1] >= need.gpu]
    fit = [min([int(c / need.cpu), *([int(g / need.gpu) for _ in "x" if need.gpu])]) for c, g in trains]
    assert max(fit) == per_node
    notes = cluster.notes(need)
    assert bool(notes) == (0 in fit)
    if notes:
        assert f"per_node is {per_node}: a training reserves {need.cpu:g} CPUs" in notes[0]
        assert "1 of this Ray's 2 nodes have less: they train nothing" in notes[0]


def test_a_limit_per_node_never_reserves_less_than_is_asked_for_otherwise():
    cluster = Cluster(((16.0, 2.0),))

    def need(**train):
        found = cluster.needs(Resources.model_validate({"train": train}), threads=4)["train"]
        return found.cpu, found.gpu

    assert need(per_node=8) == (4, 0.25), "threads: four at once"
    assert need(per_node=8, cpu=1) == (1.7778, 0.25)
    assert need(per_node=2, cpu=1, gpu=0.5) == (5.3334, 0.5)
    assert need(per_node=3, gpu=0) == (4.0001, 0)
    for bad, message in (
        ({"train": {"per_node": 0}}, "greater than or equal to 1"),
        ({"umap": {"per_node": 2}}, r"umap.per_node is 2, but only trainings are limited per node"),
    ):
        with pytest.raises(ValueError, match=message):
            Resources.model_validate(bad)


ASK = {"results": "/r", "data": "/d", "cache": "/c"}
HERE = {
    "node": "n", "source": "asdray 0.1.0 (source 1234)", "versions": {"python": "3.11.7", "torch": "2.11.0"},
    "token": "t", "write": None, "leased": True, "datasets": {"/d/x.json": "id"}, "wavs": [], "inputs": {"/d/w.pt": 5}, "packs": 0,
    "cache": None, "free": 10**12, "free_cache": 10**12,
}  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "wrote", "expected"),
    [
        ({}, "t", []),
        ({"source": None, "token": None}, None, ["has no asdray: install asdray 0.1.0"]),
        (
            {"versions": {"python": "3.11.9", "torch": None}},
            "t",
            ["has python 3.11.9 (here 3.11.7), torch missing (here 2.11.0): results would depend on the node"],
        ),
        ({"token": "another"}, "t", ["does not see --results /r"]),
        ({"write": "Read-only file system"}, None, ["cannot write to --results /r (Read-only file system)"]),
        ({}, None, ["cannot write to --results /r (the driver does not see the file)"]),
        ({"datasets": {"/d/x.json": "other"}}, "t", ["sees another /d/x.json than is here"]),
        ({"datasets": {"/d/x.json": None}, "wavs": ["/d/a.wav"]}, "t", ["does not see --data /d"]),
        ({"wavs": ["/d/a.wav"]}, "t", ["does not see /d/a.wav: mount what the folders of /d/original lead to"]),
        ({"inputs": {"/d/w.pt": None}}, "t", ["does not see /d/w.pt: put it on storage that all nodes share"]),
        ({"inputs": {"/d/w.pt": 4}}, "t", ["sees another file at /d/w.pt: put it on storage"]),
        ({"cache": "Permission denied"}, "t", ["cannot write to --cache-dir /c (Permission denied)"]),
        ({"packs": 2 * 10**12}, "t", ["has 1000.00 GB free in /c, 2000.00 GB are needed"]),
        ({"free": 10**8}, "t", ["has 0.10 GB free in /r, 1.00 GB are needed"]),
        ({"free": None, "free_cache": None}, "t", []),
    ],
)  # fmt: skip
def test_what_a_node_sees_otherwise_is_reported_with_the_fix(seen, wrote, expected):
    faults = faults_of({**HERE, **seen}, HERE, ASK, "t", wrote, 0.0)
    assert len(faults) == len(expected)
    for fault, start in zip(faults, expected, strict=True):
        assert fault.startswith(start)


def test_the_estimate_of_what_is_still_written_counts():
    (fault,) = faults_of({**HERE, "free": 3 * 10**9}, HERE, ASK, "t", "t", 5e9)
    assert fault.startswith("has 3.00 GB free in /r, 5.00 GB are needed: free some")


def test_the_origin_of_the_token_is_named(monkeypatch):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    error = ConnectionError("Failed to connect")
    assert "does not let us in (Failed to connect): the token in ~/.ray/auth_token" in why_refused(
        "a:1", error
    )
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/f")
    assert "the token in /f must be" in why_refused("a:1", error)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert "RAY_AUTH_MODE is 'disabled' here" in why_refused("a:1", error)


def test_results_in_the_copy_of_a_job_are_refused(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"runtime_env": {"working_dir": "gcs://x.zip"}}')
    with pytest.raises(ValueError, match="lies in Ray's copy of the job's --working-dir"):
        check(None, Places.of("/d", "results"), 0.0)


def test_what_tune_writes_of_each_trial_does_not_hold_the_names_of_all():
    from ray import cloudpickle

    from asdray.sweep.tune import Part, _Work

    system = load_recipe("dis_baseline").system
    trials = [
        Trial("dcase2023", "dis_baseline", system, i, ("fan",), "dis_baseline lr=1") for i in range(1000)
    ]
    names = _Work({i: Part(i, trial, number=int(i == 8)) for i, trial in enumerate(trials)})
    sent = cloudpickle.dumps(lambda index: f"train {names[index].trial}")
    asked = SimpleNamespace(config={"work": 7})
    assert names.shown(asked) == "train dis_baseline lr=1 dcase2023 seed7"
    assert names.folder(asked) == f"dis_baseline-{system.id}-dcase2023-seed7"
    assert names.shown(SimpleNamespace(config={"work": 8})).endswith("seed8, part 2")
    assert names.folder(SimpleNamespace(config={"work": 8})).endswith("seed8-2")
    assert len(sent) < 5000
    assert len(str(names.shown)) < 200, "Tune makes this text once per trial"


@pytest.mark.parametrize(
    ("recipe", "seeds", "slots", "expected"),
    [
        ("ae_baseline", 1, 2, [["fan", "pump"], ["slider", "valve"], ["gearbox", "bearing"], ["ToyCar"]]),
        ("ae_baseline", 4, 2, [["fan", "pump", "slider", "valve", "gearbox", "bearing", "ToyCar"]] * 4),
        (
            "ae_baseline",
            1,
            64,
            [["fan"], ["pump"], ["slider"], ["valve"], ["gearbox"], ["bearing"], ["ToyCar"]],
        ),
        ("ae_baseline", 1, 1, [["fan", "pump", "slider", "valve", "gearbox", "bearing", "ToyCar"]]),
        ("dis_baseline", 1, 8, [["fan", "pump", "slider", "valve", "gearbox", "bearing", "ToyCar"]]),
        ("raw_spec", 1, 8, [["fan", "pump", "slider", "valve", "gearbox", "bearing", "ToyCar"]]),
    ],
)
def test_trials_in_parts(recipe, seeds, slots, expected):
    from asdray.sweep.tune import in_parts

    machines = ("fan", "pump", "slider", "valve", "gearbox", "bearing", "ToyCar")
    system = load_recipe(recipe).system
    trials = {7 + seed: Trial("dcase2023", recipe, system, seed, machines) for seed in range(seeds)}
    parts = in_parts(trials, slots)
    assert {m for part in parts for m in part.trial.machines} == {*machines}
    assert [sorted(p.trial.machines) for p in parts] == [sorted(m) for m in expected]
    assert [p.index for p in parts] == sorted(p.index for p in parts)
    assert {p.trial.name for p in parts} == {trial.name for trial in trials.values()}


@pytest.mark.parametrize(
    ("cpus", "tasks", "queued", "ready"),
    [
        (2, 16, True, (1, 0)),
        (2, 16, False, (1, 1)),
        (2, 1, False, (1, 0)),
        (2, 0, False, (0, 0)),
        (2, None, True, (1, 0)),
        (64, 1000, False, (8, 0)),  # of a gigabyte each
        (8, 6, False, (4, 2)),
    ],
)
def test_where_no_training_waits_all_workers_that_follow_get_ready(cpus, tasks, queued, ready):
    one = Cluster(((float(cpus), 0.0),))
    assert one.workers(tasks, queued) == ready


@pytest.mark.parametrize(
    ("kind", "device", "slots"), [("extract", "cpu", 3), ("extract", "cuda", 1), ("umap", "cpu", 1)]
)
def test_an_extraction_counts_as_often_as_it_has_threads(kind, device, slots):
    from asdray.sweep.jobs import Job, Remaining, TrialRun
    from asdray.sweep.tasks import Task

    system = with_overrides(load_recipe("dis_baseline").system, {"train.threads": 3}, "r")
    trial = Trial("dcase2023", "dis_baseline", system, 0, ("fan",))
    run = TrialRun(0, Job(trial, {}, None, ()), Remaining(), asked=True)
    assert Task(kind, run, "last", "fan").slots(device) == slots
