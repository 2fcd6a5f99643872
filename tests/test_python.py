"""The Python interface: docs/python.md as it stands, `Results`, and what `import asdray` does."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sweeping import in_process

import asdray as package
from asdray import store
from asdray.dcase.format import format_dataset
from asdray.dcase.synth import synthesise
from asdray.evaluation import metrics
from asdray.results import plain_options
from asdray.sweep.stop import stop_on_signals

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with the data of docs/python.md, and the trials of its sweep made by hand, without Ray."""
    root = tmp_path_factory.mktemp("python")
    synthesise(
        root / "data", "dcase2023", machines=["fan", "bandsaw"], train=12, test=8, seconds=2.0, workers=1
    )
    format_dataset(root / "data", "dcase2023")
    for n_mels in (32, 64):
        in_process(
            "run", "raw_spec", "dcase2023", "--machines", "fan,bandsaw", "--set", f"frontend.n_mels={n_mels}",
            "--backend", "knn", "--backend", "{name: mahalanobis, shrinkage: 0.5}", "--no-umap", "--device", "cpu",
            "--data", root / "data", "--results", root / "results",
        )  # fmt: skip
    return root


@pytest.fixture
def here(world, monkeypatch):
    """The working directory of a notebook in this folder."""
    monkeypatch.chdir(world)
    yield world
    monkeypatch.undo()


@pytest.fixture(scope="module")
def documented(world):
    """The names that the Python lines of docs/python.md define, after they have run there, without a report."""
    text = (ROOT / "docs/python.md").read_text().replace('"umap": False,', '"umap": False, "report": False,')
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    names: dict = {}
    before = Path.cwd()
    os.chdir(world)
    try:
        for block in blocks:
            exec(compile(block, "docs/python.md", "exec"), names)
    finally:
        os.chdir(before)
    return names


def test_the_lines_of_the_documentation_give_what_they_say(documented, here):
    assert set(documented["board"]["frontend.n_mels"]) == {32, 64}
    best = documented["best"]
    dev = documented["board"].set_index(["frontend.n_mels", "backend"])["dcase2023-dev_mean"]
    assert best["dcase2023-dev_mean"] == dev.max() == dev[best["frontend.n_mels"], best["backend"]]
    assert documented["results"].folder == Path("results/sweeps/first")
    assert len(documented["scores"]) == 2 * 2 * 2
    assert set(documented["mix"]["score"]) != set(documented["scores"]["score"])
    trial = store.TrialDir(Path(best["folders"][0]))
    known = pd.read_csv(trial.score_view("last", "fan", "test"))
    known = known[known["clip"].str.startswith("dev/")].set_index("clip")
    found = documented["found"]
    for backend, of in found.groupby("backend"):
        (column,) = [name for name in known.columns if name.startswith(backend)]
        names = ["dev/fan/test/" + Path(file).name for file in of["file"]]
        np.testing.assert_allclose(of["score"], known.loc[names, column], rtol=1e-5)


def test_scores_are_the_official_scores_of_every_trial(documented, here):
    """Against the trial's own table, and its machines' official scores by the formula."""
    results = package.Results("results/sweeps/first")
    scores = results.scores()
    assert list(scores.columns) == [
        "system", "recipe", "name", "frontend.n_mels", "dcase", "subset", "seed", "backend", "checkpoint", "score",
        "backend_id", "part", "dataset", "folder",
    ]  # fmt: skip
    frame = package.load_results(results.folder)
    assert set(scores["name"]) == {"raw_spec n_mels=32", "raw_spec n_mels=64"}
    for row in scores.to_dict("records"):
        table = pd.read_csv(
            store.TrialDir(Path(row["folder"])).output("last") / f"official23-{row['subset']}.csv"
        )
        assert row["score"] == table.set_index("backend")["total"][row["backend"]]
        mine = frame[(frame["system"] == row["system"]) & (frame["subset"] == row["subset"])]
        mine = mine[
            (mine["backend"] == row["backend"]) & (mine["metric"] == "official") & (mine["section"] == -1)
        ]
        assert row["score"] == pytest.approx(metrics.harmonic_mean(mine["value"].tolist()))
        assert (
            json.loads((Path(row["folder"]) / "trial.json").read_text())["system"]["frontend"]["n_mels"]
            == row["frontend.n_mels"]
        )
    assert results._repr_html_().count("<tr") > 4


def test_a_complete_sweep_says_so_and_leaves_the_process_as_it_was(documented, here, capsys):
    before = dict(os.environ), signal.getsignal(signal.SIGINT)
    again = package.sweep("results/sweeps/first/sweep.yaml", data="data", results="results")
    assert (again.unfinished, again.failures) == ((), ())
    assert (dict(os.environ), signal.getsignal(signal.SIGINT)) == before
    assert "sweep first: 2 trials" in capsys.readouterr().out
    assert again.leaderboard().equals(documented["results"].leaderboard())
    package.sweep("results/sweeps/first/sweep.yaml", quiet=True, only="frontend.n_mels=32")
    assert capsys.readouterr().out == ""


def test_errors_are_those_of_the_command(here):
    for call, message in (
        (
            lambda: package.sweep(
                {"name": "x", "recipes": ["raw_spek"], "dcase": ["dcase2023"], "seeds": [0]}
            ),
            "did you mean 'raw_spec'",
        ),
        (lambda: package.sweep({"nam": "x"}), "the sweep.*nam"),
        (lambda: package.sweep(["x"]), "the path of a file or a dictionary, not list"),
        (
            lambda: package.sweep({"name": "x"}, overrides=["seeds=[0]"]),
            "overrides is .*: it is option -> value",
        ),
        (
            lambda: package.sweep({"name": "x"}, overrides={1: 2}),
            "overrides is .1: 2.: it is option -> value",
        ),
        (lambda: package.sweep({"name": "x"}, only=["seed=0"]), "only is .*: it is a text"),
        (lambda: package.sweep({"name": "x"}, plugins="own.py"), "there is no plugin .*/own.py$"),
        (lambda: package.Results("nothing"), "nothing is no sweep's folder"),
        (
            lambda: package.Results("first").best("dcase2023-dve"),
            "unknown column 'dcase2023-dve'; did you mean",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_a_dictionary_is_not_changed(here):
    spec = {
        "name": "x",
        "recipes": {"raw_spec": {"space": {"frontend.n_mels": [32]}}},
        "dcase": ["dcase2024"],
    }
    before = json.dumps(spec)
    with pytest.raises(ValueError, match="the sweep|dcase2024 is not formatted"):
        package.sweep(spec)
    assert json.dumps(spec) == before


def test_options_become_plain_columns():
    assert plain_options(
        {
            "frontend.loss": {"margin": 0.5, "name": "arcface", "of": {"a": True}}, "frontend.heads": [{"name": "x"}],
            "train.ema": None, "train.epochs": 4, "audio.duration": "year_max",
        }
    ) == {
        "frontend.loss": "arcface", "frontend.loss.margin": 0.5, "frontend.loss.of.a": True,
        "frontend.heads": '[{"name": "x"}]', "train.ema": None, "train.epochs": 4, "audio.duration": "year_max",
    }  # fmt: skip


# ------------------------------------------------------------------------------------ the package as a function


def run_python(code, cwd=None, **env):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=cwd, timeout=100,
        env={**os.environ, **env},
    )  # fmt: skip


def test_sweep_is_a_package_and_a_function_whatever_is_imported_first():
    run = run_python("""
        import sys, asdray
        assert not {'numpy', 'pandas', 'torch', 'ray', 'pydantic'} & set(sys.modules)
        assert {'sweep', 'predict', 'Results', 'load_results', 'predictor'} <= set(dir(asdray))
        assert callable(asdray.sweep)
        import asdray.sweep.plan
        from asdray import sweep
        assert sweep is asdray.sweep and sweep.plan.load
        try:
            sweep({})
        except ValueError as error:
            print(error)
        assert 'ray' not in sys.modules and 'torch' not in sys.modules
    """)
    assert (run.returncode, run.stderr) == (0, "")
    assert "the sweep" in run.stdout
    help_of = subprocess.run(
        [sys.executable, "-m", "asdray.sweep", "--help"], capture_output=True, text=True, check=True
    )
    assert "sweep file" in help_of.stdout


def test_the_package_is_found_from_the_folder_above_a_clone(tmp_path):
    direct = metadata.distribution("asdray").read_text("direct_url.json")
    if direct is None or not json.loads(direct).get("dir_info", {}).get("editable"):
        pytest.skip("asdray is not installed as an editable package here")
    (tmp_path / "asdray/asdray").mkdir(
        parents=True
    )  # a folder without __init__.py: a namespace, if nothing else is found
    run = run_python("import asdray; print(asdray.__version__)", tmp_path, PYTHONPATH="")
    assert (run.stdout, run.returncode) == (f"{package.__version__}\n", 0), run.stderr


def test_further_interrupts_of_a_notebook_do_not_end_the_process():
    with stop_on_signals(ends_process=False) as stop:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.asked
