"""The command line: wrong input gives one message and exit code 2, a failure exit code 1."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny import AE, DCASE, build_year

from asdray import __version__, store
from asdray.config.backend import Knn
from asdray.config.expand import load_sweep
from asdray.config.trial import Trial
from asdray.dcase.manifest import load_dataset
from asdray.dcase.synth import synthesise
from asdray.stages.steps import Request, TrialFiles
from asdray.stages.trial_json import read_trial, write_trial
from asdray.store import Places
from asdray.sweep.cluster import WORKER_ENV


@pytest.fixture(autouse=True)
def _threads(monkeypatch):
    """Commands set these variables for the whole process, which other tests share."""
    for name, value in WORKER_ENV.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    build_year(root)
    return root


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipes") / "tiny.yaml"
    path.write_text(yaml.safe_dump({"about": "tiny", **AE.model_dump(mode="json")}))
    return path


@pytest.fixture
def trial(data, tmp_path):
    """The folder of a trial with a description and no results."""
    places = Places.of(data, tmp_path / "results")
    made = Trial(DCASE, "ae", AE, 0, ("fan",))
    return write_trial(
        TrialFiles(made, places, load_dataset(data, DCASE)), Request(("last",), made.backends((Knn(),)))
    )


# ------------------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("run {recipe} dcase2023 --machines fan --data {data} --results /proc/foo", "error: /proc/foo"),
        ("run {recipe} dcase2023 --machines fan --data {data} --results /etc/passwd", "error: /etc/passwd/"),
        (
            "run {recipe} dcase2023 --machines fan --data {data} --results {tmp} --cache-dir /proc/foo",
            "error: /proc/foo",
        ),
        ("synth dcase2023 --machines fan --data /proc/foo", "error: /proc/foo"),
        ("sweep /etc/passwd/x.yaml", "error: cannot read /etc/passwd/x.yaml: Not a directory"),
        ("run nope dcase2023 --machines fan --data {tmp}", "error: unknown recipe 'nope'"),
        ("run dis_baseline dcase2023 --set train.epoch=1 --data {tmp}", "unknown option 'train.epoch'"),
        ("run ae_baseline dcase2023 --device foo", "--device"),
        ("train {tmp} --device cuda:x", "--device"),
        (
            "run {recipe} dcase2023 --machines fan --data {data} --results {tmp} --backend knn",
            "--backend knn does not apply to tiny-",
        ),
        ("synth dcase2023 --seconds 1e9 --data {tmp}", "seconds is 1000000000.0, must be at most 60"),
        ("synth dcase2023 --seconds nan --data {tmp}", "seconds is nan, must be at least 0.5"),
    ],
)
def test_wrong_input_is_one_message(asdray, data, recipe, tmp_path, args, message):
    code, _, err = asdray(*args.format(data=data, recipe=recipe, tmp=tmp_path).split())
    assert message in err
    assert code == 2
    if err.startswith("error: "):
        assert len(err.splitlines()) == 1


def test_synth_takes_the_longest_clips_that_systems_take(tmp_path):
    with pytest.raises(ValueError, match="must be at most 60"):
        synthesise(tmp_path, DCASE, machines=("fan",), seconds=60.1)


WORK = """
import sys
from asdray.cli import main
from asdray.cli.screen import print_line
from asdray.terminal import console
from rich.table import Table

def work(arguments):
    for i in range(2000):
        print_line(f"± é line {i}")
    table = Table("a")
    table.add_row("[/b] \\x1b[2J ±")
    console().print(table)
    open(sys.argv[1], "w").write("done")
    sys.exit(int(sys.argv[2]))

sys.modules["asdray.cli.main"]._run = work
main()
"""


@pytest.mark.parametrize(
    ("streams", "code", "told"),
    [
        (">&- 2>&- <&-", 1, ""),
        ("2>&1 | head -1", 1, "± é line 0"),
        (">/dev/full", 0, "error: standard output cannot be written (No space left on device)"),
    ],
)
def test_the_work_ends_whatever_becomes_of_the_output(tmp_path, streams, code, told):
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(WORK)} {tmp_path}/file {code} {streams}; "
    run = subprocess.run(
        ["bash", "-c", f"{command}exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True, check=False
    )
    assert (tmp_path / "file").read_text() == "done", run.stderr
    assert (run.stdout + run.stderr).strip() == told
    assert run.returncode == (1 if "full" in streams else code)


def test_the_output_is_readable_where_only_ascii_is_known(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", WORK, tmp_path / "file", "0"], capture_output=True, check=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    shown = run.stdout.decode("ascii")
    assert "+- \\xe9 line 0\n" in shown
    assert "[/b] \\x1b[2J +-" in shown, "no code for the terminal, no markup of ours"
    assert run.stderr == b""


def test_relative_recipe_of_a_run_is_that_of_the_working_directory(asdray, data, recipe, monkeypatch):
    monkeypatch.chdir(recipe.parent)
    code, _, err = asdray("run", "tiny.yaml", DCASE, "--machines", "nofan", "--data", data)
    assert "no machine 'nofan'" in err
    assert code == 2


# ------------------------------------------------------------------------------------- a trial by hand


def test_run_and_stage_commands(asdray, data, recipe, tmp_path):
    where = ["--data", data, "--results", tmp_path]
    command = ["run", recipe, DCASE, "--machines", "fan", "--no-umap", "--device", "cpu", *where]
    code, out, err = asdray(*command)
    assert (code, err) == (0, "")
    assert "official23-dev" in out
    (folder,) = (p.parent for p in tmp_path.glob("trials/*/*/*/trial.json"))
    for stage in ("score", "evaluate", "table"):
        args = [stage, folder, "--ckpt", "last", "--data", data]
        code, out, err = asdray(*args, "--backend", "recon")
        assert (code, err) == (0, "")
        assert "already done" in out
        code, out, err = asdray(*args, "--backend", "knn")
        assert (code, out) == (2, "")
        assert "--backend knn does not apply to tiny-" in err
        assert "'autoencoder' offers recon" in err
    code, _, err = asdray("table", folder, "--ckpt", "bst", "--data", data)
    assert code == 2
    assert "checkpoint is 'bst'" in err


def test_divergence_is_a_failure(asdray, data, recipe, tmp_path):
    code, _, err = asdray(
        "run", recipe, DCASE, "--machines", "fan", "--no-umap", "--device", "cpu",
        "--data", data, "--results", tmp_path, "--set", "train.learning_rate=1e30",
    )  # fmt: skip
    assert code == 1
    assert err.startswith("failed: ")
    assert len(err.splitlines()) == 1


# ------------------------------------------------------------------------------- a damaged trial.json


def without(key):
    return lambda value: {k: v for k, v in value.items() if k != key}


@pytest.mark.parametrize(
    "damage",
    [
        *map(without, ("dcase", "recipe", "system", "seed", "machines", "checkpoints", "backends", "umap")),
        lambda _: [],
        lambda value: {**value, "system": {**value["system"], "new": 1}},
        lambda value: {**value, "machines": ["nofan"]},
        lambda value: {**value, "dcase": "dcase1999"},
        lambda value: {**value, "checkpoints": "last"},
        lambda value: {**value, "backends": [{"name": "future"}]},
    ],
)
def test_damaged_description(asdray, trial, data, damage):
    path = trial / "trial.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(damage(whole)))
    code, _, err = asdray("extract", trial, "--data", data)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert str(path) in err
    assert "`asdray run` or `asdray sweep`" in err


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff"])
def test_a_damaged_description_is_written_again(asdray, trial, data, content):
    path = trial / "trial.json"
    whole = json.loads(path.read_text())
    path.write_bytes(content)
    code, _, err = asdray("extract", trial, "--data", data)
    assert code == 2
    assert "writes it again" in err
    made = Trial(DCASE, "ae", AE, 0, ("fan",))
    places = Places.of(data, trial.parents[3])
    write_trial(
        TrialFiles(made, places, load_dataset(data, DCASE)), Request(("last",), made.backends((Knn(),)))
    )
    again = json.loads(path.read_text())
    assert without("provenance")(again) == without("provenance")(whole)
    assert read_trial(trial)[0] == made


# ---------------------------------------------------------------------------------------------- sweeps


@pytest.fixture
def spec(recipe, tmp_path):
    """A sweep file with a path of a recipe relative to the sweep file."""
    folder = tmp_path / "with space"
    folder.mkdir()
    (folder / "own.yaml").write_text(recipe.read_text())
    value = {
        "name": "s", "recipes": ["own.yaml"], "dcase": DCASE, "seeds": 0,
        "machines": {DCASE: ["fan", "bandsaw"]}, "umap": False,
    }  # fmt: skip
    (folder / "s.yaml").write_text(yaml.safe_dump(value))
    return folder / "s.yaml"


def test_the_recipe_is_faulted_before_the_data(asdray, spec, tmp_path):
    (spec.parent / "own.yaml").unlink()
    code, _, err = asdray("sweep", spec, "--data", tmp_path / "none")
    assert code == 2
    assert str(spec.parent / "own.yaml") in err


def test_the_resolved_spec_works_from_anywhere(asdray, spec, data, tmp_path, monkeypatch):
    from asdray.sweep.outputs import write_spec

    monkeypatch.chdir(spec.parent)
    folder = store.sweep_dir(tmp_path / "results", "s")
    write_spec(load_sweep(Path(spec.name)), folder)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, out, err = asdray("report", "s", "--data", data, "--results", tmp_path / "results")
    assert (code, err) == (0, "")
    assert "own" in out


def test_a_stopped_sweep_names_the_whole_command(asdray, spec, data, tmp_path, monkeypatch):
    """With an invented stop; the tests of sweeps have a real one."""
    from dataclasses import fields

    import asdray.sweep.run as run
    from asdray.sweep.outputs import write_results

    def stopped(sweep, jobs, places, options):
        values = {f.name: {} for f in fields(run.Result)}
        values |= {"board": write_results(sweep, jobs, places), "folder": places.results, "stopped": True}
        return run.Result(**values)

    monkeypatch.setattr(run, "run_sweep", stopped)
    command = [
        "sweep",
        str(spec),
        "--data",
        str(data),
        "--results",
        str(tmp_path / "r"),
        "--set",
        "seeds=[3, 4]",
    ]
    code, _, err = asdray(*command, "--fresh", "--yes")  # which going on must not repeat
    assert code == 75
    (line,) = [x for x in err.splitlines() if "to go on: " in x]
    assert shlex.split(line.split("to go on: ")[1]) == ["asdray", *command]


def test_version_and_shell_completion(asdray):
    assert asdray("--version") == (0, f"asdray {__version__}\n", "")
    env = {**os.environ, "_ASDRAY_COMPLETE": "complete_bash", "COMP_WORDS": "asdray sw", "COMP_CWORD": "1"}
    script = Path(sys.executable).with_name("asdray")
    run = subprocess.run([script], env=env, capture_output=True, text=True, check=False)
    assert run.stdout.split() == ["sweep"], run.stderr
