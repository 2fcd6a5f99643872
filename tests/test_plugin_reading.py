"""Reading results runs no plugin: stand-ins have the ids and facts of the real configurations."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from no_plugins import forget_plugins
from tiny import DCASE, DIS, build_year

from asdray import load_results
from asdray.config import stand_in
from asdray.config.base import UNIONS, load_plugins
from asdray.config.expand import expand, load_sweep
from asdray.config.files import validate
from asdray.config.system import System, with_overrides
from asdray.config.trial import score_signature
from asdray.plugin_results import reader
from asdray.sweep.outputs import write_spec

HERE = Path(__file__).parent
FRONTEND = {"name": "bands", "n_bands": 8}


def forget():
    """A process that has run no plugin yet."""
    forget_plugins()
    for name in [name for name in sys.modules if name.startswith("asdray_plugin_")]:
        del sys.modules[name]
    for union in UNIONS.values():
        union.seen.clear()


@pytest.fixture(autouse=True)
def _no_plugin_stays():
    yield
    forget()


@pytest.fixture
def plugins(tmp_path) -> list[Path]:
    """Copies of the examples that leave a mark when they run."""
    paths = []
    for name in ("plugin_example.py", "network_example.py"):
        path = tmp_path / "own" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text((HERE / name).read_text() + f"\nopen({str(tmp_path / 'ran')!r}, 'w').close()\n")
        paths.append(path)
    return paths


def ran(folder: Path) -> bool:
    """True if a plugin ran since the last call."""
    mark, found = folder / "ran", (folder / "ran").exists()
    mark.unlink(missing_ok=True)
    return found


def spec(tmp_path, plugins) -> Path:
    recipe = tmp_path / "bands.yaml"
    recipe.write_text(yaml.safe_dump({"about": "toy", "frontend": FRONTEND, "train": {"epochs": 1}}))
    path = tmp_path / "toy.yaml"
    branch = {"name": "band_rnn", "embedding_dim": 4}
    value = {
        "name": "toy",
        "recipes": {
            str(recipe): None,
            "dis_baseline": {
                "set": {
                    "frontend.branches": [branch, "fft"],
                    "frontend.heads": [{"name": "subspace", "loss": {"name": "softmax"}}],
                },
                "space": {
                    "frontend.branches.0.hidden": [4, 6],
                    "frontend.loss": [{"name": "adacos"}, {"name": "softmax", "smoothing": 0}],
                },
            },
        },
        "dcase": [DCASE],
        "seeds": [0, 1],
        "backends": ["knn", {"name": "centroid", "power": [1, 2]}],
        "plugins": [str(p) for p in plugins],
    }
    value["recipes"]["dis_baseline"]["set"]["frontend.branches"] = [branch, {"name": "fft"}]
    path.write_text(yaml.safe_dump(value))
    return path


def ids(sweep) -> list[str]:
    trials = [trial for trial, _ in expand(sweep, "x")]
    backends = [score_signature("e", backend) for backend in sweep.backends]
    own = [backend.name for backend in trials[0].backends(())]
    return [
        *(trial.name for trial in trials),
        *(str(t.system.model_dump(mode="json")) for t in trials),
        *backends,
        *own,
    ]


def test_a_sweep_is_read_with_the_same_ids_and_no_code(tmp_path, plugins):
    path, folder = spec(tmp_path, plugins), tmp_path / "results" / "sweeps" / "toy"
    sweep = load_sweep(path)
    facts = [
        (t.system.frontend.scope, t.system.frontend.own_scores, t.system.frontend.label, t.units)
        for t, _ in expand(sweep, "x")
    ]
    expected = ids(sweep)
    write_spec(sweep, folder)
    assert ran(tmp_path)
    forget()
    for file in (folder / "sweep.yaml", path):
        with stand_in.reading() as table:
            read = load_sweep(file, use=reader(table, folder))
            assert sorted(ids(read)) == sorted(expected)
            assert [
                (t.system.frontend.scope, t.system.frontend.own_scores, t.system.frontend.label, t.units)
                for t, _ in expand(read, "x")
            ] == facts
            with pytest.raises(
                ValueError,
                match=r"do not describe 'softmax' of the plugin .* with these options, and reading runs no plugin: add --trust-plugins",
            ):
                with_overrides(DIS, {"frontend.loss": {"name": "softmax", "smoothing": 0.7}}, "x")
    assert not ran(tmp_path)
    assert not any(union.added for union in UNIONS.values())


@pytest.mark.parametrize(
    "content", ["", "[]", "null", '{"x": 1}', "{sha: 3}", '{sha: [{"list": "LOSSES"}]}', "{sha: [3]}"]
)
def test_a_missing_or_damaged_description_asks_for_trust(content, tmp_path, plugins):
    folder = tmp_path / "results" / "sweeps" / "toy"
    write_spec(load_sweep(spec(tmp_path, plugins)), folder)
    file = folder / "plugins.json"
    (sha, *_) = json.loads(file.read_text())
    file.write_text(content.replace("sha", json.dumps(sha)))
    forget()
    ran(tmp_path)
    with (
        stand_in.reading() as table,
        pytest.raises(ValueError, match="add --trust-plugins if you know its code"),
    ):
        load_sweep(folder / "sweep.yaml", use=reader(table, folder))
    assert not ran(tmp_path)


def test_input_files_of_a_frontend_are_described(tmp_path):
    path = tmp_path / "own.py"
    text = (
        (HERE / "plugin_example.py")
        .read_text()
        .replace(
            "    own_scores: ClassVar",
            "    def input_files(self, dcase, machine, seed):\n"
            "        from asdray.config.frontend_base import InputFile\n"
            "        return (InputFile('weights', 'path', f'{machine}.pt'),)\n\n"
            "    own_scores: ClassVar",
        )
    )
    path.write_text(text)
    (plugin,) = load_plugins([path])
    system = validate(System, {"frontend": FRONTEND}, "x")
    files = system.frontend.input_files(DCASE, "fan", 0)
    members = stand_in.members_of(plugin, system, [(DCASE, "fan", 0), (DCASE, "ToyCar", 0)])
    forget()
    with stand_in.reading() as table:
        table.add(plugin, json.loads(json.dumps(members)))
        read = validate(System, json.loads(json.dumps(system.model_dump(mode="json"))), "x")
        assert read.id == system.id
        assert read.frontend.input_files(DCASE, "fan", 0) == files
        assert read.frontend.input_files(DCASE, "ToyCar", 0)[0].path == "ToyCar.pt"
        with pytest.raises(ValueError, match="do not describe the files of 'bands' for dcase2023 bandsaw"):
            read.frontend.input_files(DCASE, "bandsaw", 0)


def test_strangers_results_are_read_without_their_code(tmp_path, plugins, asdray, monkeypatch):
    """Every command on a trial or sweep of another user; stages that need the code ask for it."""
    data, results = tmp_path / "data", tmp_path / "results"
    build_year(data)
    recipe = tmp_path / "bands.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {"about": "toy", "frontend": FRONTEND, "train": {"epochs": 1}, "audio": {"duration": 0.4}}
        )
    )
    places = ["--data", data, "--results", results]
    own = ["run", recipe, DCASE, "--plugin", plugins[0], "--machines", "fan,ToyCar", "--backend", "centroid"]
    assert asdray(*own, "--no-umap", "--cache-dir", data / "cache", *places)[0] == 0
    (folder,) = results.glob(f"trials/{DCASE}/bands-*/seed0")
    sweep = {
        "name": "toy",
        "recipes": [str(recipe)],
        "dcase": [DCASE],
        "seeds": [0],
        "umap": False,
        "report": False,
    }
    sweep |= {"machines": {DCASE: ["fan", "ToyCar"]}, "backends": ["centroid"], "plugins": [str(plugins[0])]}
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(sweep))
    code, out, err = asdray("sweep", tmp_path / "toy.yaml", *places)
    assert code == 0, out + err
    shutil.rmtree(tmp_path / "own")
    forget()
    ran(tmp_path)

    def reads(*command):
        forget()
        code, out, err = asdray(*command)
        assert code == 0, out + err
        assert not ran(tmp_path)
        return out

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "stranger"))
    assert "1 done of 1 trials" in reads("status", "toy", *places)
    assert "centroid" in reads("report", "toy", *places)
    for stage in ("evaluate", "table"):
        assert "already done" in reads(stage, folder, "--data", data)
    reads(
        "submit",
        folder,
        "--backend",
        "centroid",
        "--out",
        tmp_path / "out",
        "--subset",
        "dev",
        "--data",
        data,
    )
    reads("compare", folder, folder, "--backend", "centroid", *places)
    assert set(load_results(results / "sweeps" / "toy")["backend"]) == {"centroid", "recon"}
    for stage in ("train", "extract", "score"):
        code, _, err = asdray(stage, folder, "--data", data)
        assert code == 2
        assert "which you have not run before: add --trust-plugins if you know its code, or --plugin" in err
        assert not ran(tmp_path)
    code, out, _ = asdray("score", folder, "--data", data, "--trust-plugins")
    assert (code, "already done" in out, ran(tmp_path)) == (0, True, True)
    # A description of an older release: reading asks too.
    (folder / "plugins.json").unlink()
    forget()
    code, _, err = asdray("evaluate", folder, "--data", data)
    assert code == 2
    assert "do not describe the plugin" in err
    assert asdray("evaluate", folder, "--data", data, "--trust-plugins")[0] == 0
