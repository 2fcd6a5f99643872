"""Plugins: a loss, a frontend and a backend from a user's file or folder."""

from __future__ import annotations

import copy
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from finished import snapshot
from no_plugins import forget_plugins
from tiny import AE, DCASE, DIS, MACHINES, build_year, trial_of

from asdray import store
from asdray.cli import main
from asdray.config.backend import Knn, backend_id
from asdray.config.base import UNIONS, activate, load_plugins, plugins_of
from asdray.config.expand import load_sweep
from asdray.config.files import validate
from asdray.config.plugin import Plugin
from asdray.config.sweep import check_backends
from asdray.config.system import System, with_overrides
from asdray.config.trial import score_signature
from asdray.stages.extract import extract
from asdray.stages.score import score
from asdray.stages.steps import Request, TrialFiles
from asdray.stages.train import train
from asdray.stages.trial_json import read_trial, write_trial
from asdray.store import Places
from asdray.sweep.events import attempt
from asdray.sweep.outputs import write_spec

EXAMPLE = Path(__file__).parent / "plugin_example.py"
BANDS = {"frontend": {"name": "bands"}, "train": {"epochs": 2, "batch_size": 4}, "audio": {"duration": 0.4}}

LOSS = """
from typing import Literal
from asdray.config.base import Config
class C(Config):
    name: Literal["{name}"] = "{name}"
LOSSES = [(C, print)]
"""


@pytest.fixture(autouse=True)
def _no_plugin_stays():
    yield
    forget_plugins()


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(EXAMPLE.read_text())
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("plugin")
    build_year(root)
    return root


def systems() -> tuple[System, System]:
    """A discriminative system with the plugin's loss, and the plugin's frontend."""
    loss = with_overrides(DIS, {"frontend.loss": {"name": "softmax"}, "train.epochs": 1}, "x")
    return loss, validate(System, BANDS, "x")


# ------------------------------------------------------------------------------------ configuration


def test_unions_take_members_from_outside():
    load_plugins([EXAMPLE])
    loss, bands = systems()
    assert loss.frontend.loss.name == "softmax"
    assert with_overrides(loss, {"frontend.loss.smoothing": 0.1}, "x").frontend.loss.smoothing == 0.1
    assert with_overrides(bands, {"frontend.n_bands": 4}, "x").frontend.n_bands == 4
    subspace = {"name": "subspace", "loss": {"name": "softmax"}}
    heads = with_overrides(DIS, {"frontend.heads": [subspace]}, "x").frontend.heads
    assert heads[0].loss.name == "softmax"
    assert with_overrides(loss, {"frontend.loss": {"name": "adacos"}}, "x").frontend.loss.name == "adacos"
    backends = check_backends(["knn", {"name": "centroid", "power": [1, 2]}], "x")
    assert [backend_id(b).split("-")[0] for b in backends] == ["knn", "centroid", "centroid"]
    assert trial_of(bands).backends(backends)[1:] == (*backends[1:], *trial_of(AE).backends(()))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"frontend.loss": {"name": "sofmax"}}, "frontend.loss.name is 'sofmax'; did you mean 'softmax'?"),
        (
            {"frontend.loss": {"name": "softmax", "smoothin": 1}},
            "unknown option 'frontend.loss.smoothin'; did you mean 'smoothing'? (known here: name, smoothing)",
        ),
        (
            {"frontend.loss": {"name": "softmax", "smoothing": "much"}},
            "frontend.loss.smoothing is 'much': must be a number",
        ),
        ({"frontend": {"name": "bands", "n_bands": 1.5}}, "frontend.n_bands is 1.5: must be a whole number"),
        ({"frontend": {"name": "band"}}, "frontend.name is 'band'; did you mean 'bands'?"),
        ({"frontend.loss": {"name": "adacos", "trainabl": True}}, "did you mean 'trainable'?"),
    ],
)
def test_faults_have_the_messages_of_built_in_members(overrides, message):
    load_plugins([EXAMPLE])
    with pytest.raises(ValueError) as error:
        with_overrides(DIS, overrides, "x")
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_faults_of_backends():
    load_plugins([EXAMPLE])
    with pytest.raises(ValueError, match=r"backends.0.powe'; did you mean 'power'"):
        check_backends([{"name": "centroid", "powe": 1}], "x")
    with pytest.raises(ValueError, match=r"'centroit'; did you mean 'centroid'"):
        check_backends(["centroit"], "x")


def test_built_in_members_keep_their_ids():
    before = DIS.id, backend_id(Knn())
    load_plugins([EXAMPLE])
    after = validate(System, DIS.model_dump(mode="json"), "x").id, backend_id(check_backends(["knn"], "x")[0])
    assert after == before


def test_the_hash_of_the_file_enters_ids_of_its_own_methods_alone(file):
    def ids():
        load_plugins([file])
        loss, bands = systems()
        backends = check_backends(["centroid", "knn"], "x")
        return loss.id, bands.id, *(score_signature("e", b) for b in backends), DIS.id

    old = ids()
    assert ids() == old, "the same file, the same ids"
    file.write_text(file.read_text() + "\n# changed\n")
    new = ids()
    assert [a == b for a, b in zip(old, new, strict=True)] == [False, False, False, True, True]
    other = file.with_name("moved.py")
    file.rename(other)
    load_plugins([other])
    assert systems()[0].id == new[0], "wherever it lies"


def test_copies_and_pickles():
    load_plugins([EXAMPLE])
    for value in (*systems(), *check_backends([{"name": "centroid", "power": 1}], "x")):
        again = pickle.loads(pickle.dumps(value))
        assert again == value
        assert again.model_dump() == value.model_dump()
        assert copy.deepcopy(value) == value
        assert [p.path for p in plugins_of([value])] == [str(EXAMPLE)]
    assert plugins_of(DIS, [Knn()]) == ()


def test_another_process_needs_no_file(tmp_path):
    path, pickled = tmp_path / "light.py", tmp_path / "trial"
    path.write_text(LOSS.format(name="x"))
    load_plugins([path])
    system = with_overrides(DIS, {"frontend.loss": {"name": "x"}}, "x")
    pickled.write_bytes(pickle.dumps(trial_of(system)))
    path.unlink()
    code = (
        "import pickle, sys; trial = pickle.load(open(sys.argv[1], 'rb'));"
        "from asdray.config.base import implementation;"
        "print(trial.system.id, implementation(trial.system.frontend.loss).__name__)"
    )
    run = subprocess.run([sys.executable, "-c", code, pickled], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [system.id, "print"]


# ------------------------------------------------------------------------------------- broken files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ndef f(:\n", "mine.py, line 2: invalid syntax"),
        ("import numpy\n\nnumpy.nothing\n", "mine.py, line 3: AttributeError: module 'numpy' has no"),
        ("import nothing_of_this_name", "mine.py, line 1: ModuleNotFoundError: No module named"),
        ("def f():\n    raise OSError('x')\nf()", "mine.py, line 2: OSError: x"),
        ("x = 1", "mine.py adds nothing: it needs a list BACKENDS, FRONTENDS, LOSSES, NETWORKS of pairs"),
        ("LOSS = []", "mine.py adds nothing (LOSS; did you mean 'LOSSES'?): it needs"),
        ("\nLOSSES = 3", "mine.py, line 2: LOSSES is 3, not a list"),
        ("LOSSES = [4]", "mine.py, line 1: LOSSES holds 4, not a pair of a configuration class and"),
        (
            "LOSSES = [(int, print)]",
            "mine.py, line 1: LOSSES: found <class 'int'> as a configuration class in LOSSES, expected a class that derives from asdray.config.base.Config",
        ),
        (
            LOSS.format(name="x").replace("LOSSES", "FRONTENDS"),
            "mine.py, line 4: C: found <class 'asdray_plugin_",
        ),
        (
            LOSS.format(name="adacos"),
            "mine.py, line 4: C: a loss named 'adacos' is built in: choose another name",
        ),
        (LOSS.format(name="x") + "LOSSES *= 2", "mine.py, line 4: C: a loss named 'x' is there twice"),
        (LOSS.format(name="x").replace('"x"', "3"), "mine.py, line 4: C needs a name such as  name: Literal"),
        (
            LOSS.format(name="x").replace(' = "x"', ""),
            "mine.py, line 4: C needs a name such as  name: Literal",
        ),
        (
            "from asdray.config.losses import AdaCos\nLOSSES = [(AdaCos, print)]",
            "mine.py, line 2: AdaCos is defined elsewhere: define it in this file",
        ),
        (
            "from asdray.config.losses import AdaCos\nclass C(AdaCos): pass\nLOSSES = [(C, print)]",
            "mine.py, line 2: C derives from a loss that is built in: derive from Config",
        ),
    ],
)
def test_a_broken_plugin_is_one_error_with_file_and_line(text, message, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        load_plugins([path])
    assert message in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert not any(union.added for union in UNIONS.values())


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match="there is no plugin .*none.py"):
        load_plugins([tmp_path / "none.py"])
    with pytest.raises(ValueError, match="there is no plugin .*__init__.py"):
        load_plugins([tmp_path])
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not a text file"):
        load_plugins([tmp_path / "binary.py"])


def test_two_plugins_must_not_add_the_same_name(tmp_path):
    paths = [tmp_path / "a.py", tmp_path / "b.py"]
    for path in paths:
        path.write_text(LOSS.format(name="x"))
    load_plugins([paths[0], paths[0]])
    with pytest.raises(ValueError, match=r"b.py, line 4: C: a loss named 'x' is added by .*a.py"):
        load_plugins(paths)


def test_a_new_version_of_a_file_replaces_the_old_one(tmp_path):
    path = tmp_path / "a.py"
    for name in ("x", "y"):
        path.write_text(LOSS.format(name=name))
        load_plugins([path])
    assert list(UNIONS["LOSSES"].added) == ["y"]
    activate(Plugin(str(tmp_path / "b.py"), LOSS.format(name="y")))
    assert UNIONS["LOSSES"].added["y"].plugin.path.endswith("b.py")


# ------------------------------------------------------------------------------------------ folders

MAIN = """
from pathlib import Path
from typing import Literal
from asdray.config.backend import BackendConfig
from .helper import distances
class C(BackendConfig):
    name: Literal["far"] = "far"
def far(config, references, domain, queries):
    return distances(queries, float((Path(__file__).parent / "data" / "scale.txt").read_text()))
BACKENDS = [(C, far)]
"""
HELPER = """
import numpy as np
def distances(queries, scale):
    return scale * np.linalg.norm(queries, axis=1)
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    root = tmp_path / "method"
    (root / "data").mkdir(parents=True)
    (root / "__init__.py").write_text(MAIN)
    (root / "helper.py").write_text(HELPER)
    (root / "data" / "scale.txt").write_text("2")
    return root


def score_ones(backend):
    from asdray.backends import Features, score_machine

    clips = Features(np.ones((10, 4)), {}, [0] * 10)
    return score_machine(backend, clips, ["source"] * 10, clips)[1]


def test_a_folder_has_helper_modules_and_data_files_which_are_hashed_too(folder):
    def digest():
        load_plugins([folder])
        return score_signature("e", check_backends(["far"], "x")[0])

    first = digest()
    assert score_ones(check_backends(["far"], "x")[0]).tolist() == [4.0] * 10
    (folder / ".hidden").write_text("x")
    (folder / "__pycache__").mkdir(exist_ok=True)
    (folder / "__pycache__" / "helper.pyc").write_text("x")
    assert digest() == first, "hidden and compiled files are no part of a plugin"
    (folder / "data" / "scale.txt").write_text("3")
    second = digest()
    assert score_ones(check_backends(["far"], "x")[0]).tolist() == [6.0] * 10
    (folder / "helper.py").write_text(HELPER + "# changed")
    assert len({first, second, digest()}) == 3


def test_a_folder_travels_to_processes_that_cannot_see_it(folder, tmp_path):
    load_plugins([folder])
    (backend,) = check_backends(["far"], "x")
    assert pickle.loads(pickle.dumps(backend)) == backend
    pickled = tmp_path / "backend"
    pickled.write_bytes(pickle.dumps(backend))
    for path in [*folder.rglob("*.*")]:
        path.unlink()
    code = (
        "import pickle, sys; sys.path.insert(0, sys.argv[2]); from test_plugin import score_ones;"
        "print(*score_ones(pickle.load(open(sys.argv[1], 'rb'))))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, pickled, Path(__file__).parent],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == ["4.0"] * 10


def test_an_error_in_a_helper_module_has_its_file_and_line(folder):
    (folder / "helper.py").write_text(HELPER.replace("np.linalg", "np.nothing"))
    load_plugins([folder])
    event = attempt({}, lambda: score_ones(check_backends(["far"], "x")[0]))
    assert event["error"].startswith(f"{folder / 'helper.py'}, line 4: AttributeError: module 'numpy'")
    (folder / "helper.py").write_text("1 / 0")
    with pytest.raises(ValueError, match=r"helper.py, line 1: ZeroDivisionError: division by zero"):
        load_plugins([folder])
    (folder / "helper.py").write_text("1 /")
    with pytest.raises(ValueError, match=r"helper.py, line 1: invalid syntax"):
        load_plugins([folder])


def test_a_folder_of_many_mib_is_refused(folder):
    (folder / "weights.npy").write_bytes(bytes(9 * 2**20))
    with pytest.raises(ValueError, match="method has 9 MiB, but at most 8 travel to every worker"):
        load_plugins([folder])


# ------------------------------------------------------------------------------- through all stages


def test_a_loss_and_a_frontend_and_a_backend_go_through_all_stages(file, data, tmp_path):
    load_plugins([file])
    places = Places.of(data, tmp_path / "results", data / "cache")
    backends = check_backends(["centroid"], "x")
    for system in systems():
        trial = trial_of(system)
        unit = trial.unit_of("fan")
        record = train(TrialFiles.load(trial, places), unit).record
        assert np.isfinite(record.extra["loss"])
        extract(TrialFiles.load(trial, places), "fan", "last")
        if system.frontend.name == "bands":  # what it learnt of the training clips in `prepare` counts
            found = store.trial_dir(places.results, trial).extract("last", "fan", "train")
            embeddings = np.stack(pq.read_table(found)["embedding"].to_numpy())
            assert np.abs(embeddings.mean(axis=0)).max() < 1e-5 < np.abs(embeddings).max()
        applying = trial.backends(backends)
        assert [b.name for b in applying][:1] == ["centroid"]
        for backend in applying:
            score(TrialFiles.load(trial, places), "fan", "last", backend)
            path = store.trial_dir(places.results, trial).scores("last", "fan", backend_id(backend))
            assert np.isfinite(pq.read_table(path)["score"].to_numpy()).all()
        assert train(TrialFiles.load(trial, places), unit).reused


def test_a_changed_file_makes_its_own_stages_incomplete(data, tmp_path):
    """After a change of a file with a backend alone, training and extraction stay complete."""
    frontend, backend = tmp_path / "frontend.py", tmp_path / "backend.py"
    frontend.write_text(EXAMPLE.read_text().replace("\nBACKENDS", "\nX"))
    backend.write_text(EXAMPLE.read_text().replace("\nLOSSES", "\nX").replace("\nFRONTENDS", "\nX"))
    places = Places.of(data, tmp_path / "results", data / "cache")

    def done():
        load_plugins([frontend, backend])
        trial = trial_of(systems()[1], machines=("fan",))
        chosen, own = trial.backends(check_backends(["centroid"], "x"))
        now = snapshot(trial, places)
        steps = [
            now.train(trial.units[0]),
            now.extract("fan", "last"),
            *(now.score("fan", "last", backend) for backend in (own, chosen)),
        ]
        return trial, (own, chosen), [step.complete for step in steps]

    trial, backends, found = done()
    assert not any(found)
    train(TrialFiles.load(trial, places), trial.units[0])
    extract(TrialFiles.load(trial, places), "fan", "last")
    for one in backends:
        score(TrialFiles.load(trial, places), "fan", "last", one)
    assert done()[2] == [True, True, True, True]
    backend.write_text(backend.read_text() + "# changed\n")
    assert done()[2] == [True, True, True, False]
    frontend.write_text(frontend.read_text() + "# changed\n")
    assert done()[2] == [False, False, False, False]


def state_dataset(places):
    from asdray.dcase.manifest import load_dataset

    return load_dataset(places.data, DCASE)


def test_a_sweep_records_the_line_of_a_plugin_that_raises(file):
    from asdray.backends import Features, score_machine

    file.write_text(file.read_text().replace("means = [", "queries @ queries; means = ["))
    load_plugins([file])
    (backend,) = check_backends(["centroid"], "x")
    clips = Features(np.random.default_rng(0).normal(size=(10, 3)), {}, [0] * 10)
    event = attempt({}, lambda: score_machine(backend, clips, ["source"] * 10, clips))
    line = next(i for i, text in enumerate(file.read_text().splitlines(), 1) if "queries @" in text)
    assert event["error"].startswith(f"{file}, line {line}: ValueError: matmul")
    assert len(event["error"].splitlines()) == 1
    assert "queries @ queries; means" in event["details"]


# ---------------------------------------------------------------------------------- from the command line


def asdray(capsys, *args, check=0):
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in args])
    out = capsys.readouterr()
    assert end.value.code == check, out.out + out.err
    return out


def test_every_later_command_finds_the_plugin_of_a_trial(file, data, tmp_path, capsys):
    recipe = tmp_path / "bands.yaml"
    recipe.write_text(yaml.safe_dump({"about": "toy", **BANDS}))
    results = tmp_path / "results"
    options = ["--data", data, "--cache-dir", data / "cache"]
    asdray(
        capsys, "run", recipe, DCASE, "--plugin", file, "--machines", "fan", "--no-umap", "--backend", "centroid",
        "--results", results, *options,
    )  # fmt: skip
    (folder,) = results.glob(f"trials/{DCASE}/bands-*/seed0")
    description = json.loads((folder / "trial.json").read_text())
    sha256 = store.sha256_file(file)
    assert description["plugins"] == [{"path": str(file), "sha256": sha256}]

    file.write_text(file.read_text() + "# changed\n")
    out = asdray(capsys, "extract", folder, *options)
    assert "already done" in out.out
    assert "mine.py has changed since: the trial goes on with its own copy" in out.err
    asdray(capsys, "score", folder, "--data", data)
    scores = folder / "output" / "last" / "fan" / "scores"
    old = {p.name for p in scores.iterdir()}
    asdray(
        capsys, "score", folder, "--data", data, "--plugin", file, "--backend", "{name: centroid, power: 1}"
    )
    assert len({p.name for p in scores.iterdir()} - old) == 1
    file.unlink()
    for command in ("evaluate", "table"):  # over the new score too
        asdray(capsys, command, folder, "--data", data)
    for command in ("train", "extract", "score", "evaluate", "table"):
        assert "already done" in asdray(capsys, command, folder, "--data", data).out

    kept = store.TrialDir(folder).plugin(sha256)
    kept.write_text(kept.read_text() + "#")
    out = asdray(capsys, "score", folder, "--data", data, check=2)
    assert "is not the plugin" in out.err


def test_trials_and_sweeps_keep_copies_of_a_folder(folder, data, tmp_path, capsys):
    recipe, results = tmp_path / "raw.yaml", tmp_path / "results"
    recipe.write_text("about: toy\nfrontend: {name: raw_spec}\n")
    options = ["--data", data, "--results", results, "--cache-dir", data / "cache"]
    run = ["run", recipe, DCASE, "--plugin", folder, "--machines", "fan", "--no-umap", "--backend", "far"]
    asdray(capsys, *run, *options)
    (trial,) = results.glob(f"trials/{DCASE}/raw-*/seed0")
    before = {
        p.relative_to(folder): p.read_bytes() for p in folder.rglob("*.*") if p.parent.name != "__pycache__"
    }
    (copied,) = (trial / "plugins").iterdir()
    assert {p.relative_to(copied): p.read_bytes() for p in copied.rglob("*.*")} == before

    path = tmp_path / "sweep.yaml"
    lists = {"dcase": [DCASE], "seeds": [0], "backends": ["far"], "plugins": [str(folder)]}
    path.write_text(yaml.safe_dump({"name": "toy", "recipes": [str(recipe)], **lists}))
    write_spec(load_sweep(path), tmp_path / "kept")
    (copied,) = (tmp_path / "kept" / "plugins").iterdir()
    assert {p.relative_to(copied): p.read_bytes() for p in copied.rglob("*.*")} == before
    ids = [backend_id(load_sweep(p).backends[0]) for p in (path, tmp_path / "kept" / "sweep.yaml")]
    assert ids[0] == ids[1]

    (folder / "helper.py").write_text("1 / 0")
    forget_plugins()
    out = asdray(capsys, "score", trial, "--data", data, "--overwrite")
    assert "method has changed since: the trial goes on with its own copy" in out.err


def test_the_plugin_of_a_sweep_file(file, data, tmp_path, capsys):
    spec = {
        "name": "toy",
        "recipes": {"bands.yaml": None, "dis_baseline": {"set": {"frontend.loss": {"name": "softmax"}}}},
        "dcase": [DCASE],
        "seeds": [0],
        "machines": {DCASE: list(MACHINES)},
        "backends": ["centroid"],
    }
    (tmp_path / "bands.yaml").write_text(yaml.safe_dump({"about": "toy", **BANDS}))
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({**spec, "plugins": "mine.py"}))
    sweep = load_sweep(path)
    assert sweep.plugins == (str(file),)
    assert sweep.model_dump(mode="json")["backends"] == [
        {"name": "centroid", "sep_section": False, "power": 2.0}
    ]
    path.write_text(yaml.safe_dump({**spec, "plugins": ["mine.py"]}))
    places = ["--data", data, "--results", tmp_path / "results"]
    assert "centroid" in spec["backends"]
    asdray(capsys, "sweep", path, "--dry-run", *places)
    path.write_text(yaml.safe_dump(spec))
    asdray(capsys, "sweep", path, "--dry-run", "--plugin", file, *places)
    file.write_text("x = ")
    out = asdray(capsys, "sweep", path, "--dry-run", "--plugin", file, *places, check=2)
    assert "mine.py, line 1: invalid syntax" in out.err
    path.write_text(yaml.safe_dump({**spec, "plugins": 3}))
    out = asdray(capsys, "sweep", path, "--dry-run", *places, check=2)
    assert "plugins is 3: must be a list of paths" in out.err


@pytest.mark.parametrize(
    ("stage", "code", "raising", "says"),
    [
        ("train", "self.inwards =", "raise OSError('nothing\\nfits')  #", ["OSError: nothing fits"]),
        (
            "train",
            "return self.errors(self.energies(to_float(batch)))",
            "return self.errors(to_float(batch))",
            ["RuntimeError: ", "in loss: return self.errors(to_float(batch))", "in errors: return"],
        ),
        ("extract", "energies = self.energies(waves)", "energies = 1 // 0", ["ZeroDivisionError: integer"]),
        ("score", "means = [", "queries @ queries; means = [", ["ValueError: bands ", " seed0: fan: matmul"]),
    ],
    ids=["build", "train", "extract", "score"],
)
def test_an_exception_of_a_plugin_is_reported_with_its_line(
    stage, code, raising, says, file, data, tmp_path, capsys
):
    recipe = tmp_path / "bands.yaml"
    recipe.write_text(yaml.safe_dump({"about": "toy", **BANDS}))
    before, _, after = file.read_text().partition(code)
    file.write_text(before + raising + after)
    line = before.count("\n") + 1
    options = ["--data", data, "--results", tmp_path / "results", "--cache-dir", data / "cache"]
    run = ["run", recipe, DCASE, "--plugin", file, "--machines", "fan", "--no-umap", "--backend", "centroid"]
    err = asdray(capsys, *run, *options, check=2).err
    assert err.startswith(f"error: {file}, line ")
    assert f"\n  line {line}, in " in err
    assert "Traceback" not in err
    for part in says:
        assert part in err
    # The stage by hand goes on with the trial's own copy, and tells the same whatever the file is by now.
    (folder,) = (tmp_path / "results").glob(f"trials/{DCASE}/bands-*/seed0")
    forget_plugins()
    file.write_text("# other\n" + before + after)
    again = asdray(capsys, stage, folder, *options[:2], check=2).err
    hash_of_folder = re.compile(r"(?<= bands)-[0-9a-f]{8}(?= )")  # a folder alone has no sweep to be named in
    assert hash_of_folder.sub("", again[again.index("error: ") :]) == err


def test_trial_json_of_built_in_methods_names_no_plugin(data, tmp_path):
    places = Places.of(data, tmp_path / "results")
    folder = write_trial(
        TrialFiles(trial_of(DIS), places, state_dataset(places)), Request(("last",), (Knn(),))
    )
    assert "plugins" not in json.loads((folder / "trial.json").read_text())
    assert read_trial(folder)[1].plugins == ()


def test_recipes_are_listed_with_what_they_follow(file, capsys):
    out = asdray(capsys, "recipes", "--plugin", file).out
    assert f"{file} adds: backend centroid, frontend bands, loss softmax" in out
    blocks = dict(
        b.split("\n", 1)
        for b in ("\n" + out).replace("\n    ", "\0").split("\n")
        if "\0" in b
        for b in [b.replace("\0", "\n", 1)]
    )
    mine = blocks["dis_spec_featex_asdkit"]
    assert "follows ASDKit dis_spec_featex, arXiv 2507.10264; Wilkinghoff, ICASSP 2024" in mine
    assert "published: ASDKit dis_spec_featex" in mine
    assert "2022 71.58 ± 0.86 / 66.96 ± 1.23" in mine
    assert "see dis_spec_featex_asdkit" in blocks["dis_spec_featex"]
    assert "see dis_spec_adacos_fixed, which is the same system" in blocks["dis_baseline"]
    assert "same system" not in blocks["dis_spec_adacos_fixed"] + blocks["ae_baseline"]
    assert "2023 – / 61.05" in blocks["ae_official_mahalanobis"]
