"""A real pretrained encoder through all stages and the tables of a sweep: seven poolings, four backends.

The trials run by hand, and the sweep finds everything complete; `test_recipes_ray` has this encoder on Ray.
"""

import json
import re
import shutil
from collections import Counter

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from pretrained import aisfx_data
from sweeping import in_process

from asdray.dcase.format import format_dataset
from asdray.dcase.synth import synthesise

MACHINES = ["fan", "bandsaw"]
POOLINGS = [
    "mean",
    "max",
    "mean_std",
    {"name": "gwrp", "r": 0.9},
    {"name": "gem", "p": 3},
    {"name": "rdp", "gamma": 8},
    {"name": "rdp_gem", "gamma": 4, "p": 3},
]
EMBEDDINGS = [
    f"L1_{label}" for label in ("mean", "max", "mean_std", "gwrp_0.9", "gem_3", "rdp_8", "rdp_gem_4_3")
]
BACKENDS = ["knn", "ldn", "varmin", "kmeans"]
RECIPES = {"raw_spec": {}, "raw_aisfx": {"audio.duration": 1.2, "frontend.poolings": POOLINGS}}
SPEC = {
    "name": "poolings",
    "recipes": {name: {"set": changes} for name, changes in RECIPES.items()},
    "dcase": ["dcase2023"],
    "seeds": [0],
    "machines": {"dcase2023": MACHINES},
    "backends": ["knn", *({"name": name, "embedding": EMBEDDINGS} for name in BACKENDS)],
    "umap": False,
    "report": False,
    "choose_by": "dcase2023-dev",
}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The results folder, and what the run of the encoder's trial printed."""
    data = tmp_path_factory.mktemp("poolings") / "data"
    synthesise(data, "dcase2023", machines=MACHINES, train=8, test=8, seconds=1.2, workers=1)
    format_dataset(data, "dcase2023")
    shutil.copytree(aisfx_data(tmp_path_factory) / "encoders", data / "encoders")
    path = data.parent / "sweep.yaml"
    path.write_text(yaml.safe_dump(SPEC))
    places = ["--data", data, "--results", data.parent / "results"]
    printed = {}
    for recipe, changes in RECIPES.items():
        sets = [x for key, value in changes.items() for x in ("--set", f"{key}={json.dumps(value)}")]
        backends = [x for one in changes and SPEC["backends"] for x in ("--backend", json.dumps(one))]
        machines = ["--machines", ",".join(MACHINES), "--no-umap", "--device", "cpu"]
        printed[recipe] = in_process("run", recipe, "dcase2023", *machines, *sets, *backends, *places)
    in_process("sweep", path, *places, "--no-dashboard")
    return data.parent / "results", printed["raw_aisfx"]


@pytest.fixture(scope="module")
def results(swept):
    return swept[0]


@pytest.fixture(scope="module")
def board(results):
    return pd.read_csv(results / "sweeps" / "poolings" / "leaderboard.csv")


def test_one_extraction_per_machine(swept):
    results, printed = swept
    assert Counter(re.findall(r"^extract (\w+)", printed, re.M)) == dict.fromkeys(MACHINES, 1)
    lines = (results / "sweeps" / "poolings" / "events.jsonl").read_text().splitlines()
    events = [event for event in map(json.loads, lines) if event["system"].startswith("raw_aisfx")]
    assert all(event["found"] for event in events)
    assert Counter(e["machine"] for e in events if e["stage"] == "extract") == dict.fromkeys(MACHINES, 1)
    assert Counter(e["machine"] for e in events if e["stage"] == "score") == dict.fromkeys(MACHINES, 29)


def test_the_leaderboard_has_every_pooling_by_every_backend(board):
    ours = board[board["recipe"] == "raw_aisfx"]
    assert len(ours) == 29
    assert ours["rank"].notna().all()
    for name in BACKENDS:
        labels = ours.loc[ours["backend"].str.startswith(name), "backend"]
        assert all(any(embedding in label for label in labels) for embedding in EMBEDDINGS), labels.tolist()
    assert len(board[board["recipe"] == "raw_spec"]) == 1


def test_the_choice_by_dev_stands_beside_the_best_by_eval(results, board):
    choice = pd.read_csv(results / "sweeps" / "poolings" / "selection.csv")
    key = ["system", "backend_id"]
    ours = board[board["rank"].notna()]
    assert len(choice) == len(ours) == 30
    scores = ours.set_index(key)  # few clips: several rows may share the best score
    for mark, column in (("selected", "dcase2023-dev_mean"), ("oracle", "dcase2023-eval_mean")):
        (row,) = choice.loc[choice[mark], key].itertuples(index=False)
        assert scores.loc[tuple(row), column] == scores[column].max()
    rho = choice["dev"].rank().corr(choice["eval"].rank())
    assert choice["dev_eval_correlation"].tolist() == pytest.approx([rho] * 30)
    text = (results / "sweeps" / "poolings" / "leaderboard.md").read_text()
    assert "Chosen by dcase2023-dev among 30 rows" in text
    assert f"Rank correlation (Spearman) of dcase2023-dev and eval over the rows: {rho:.2f}" in text


def test_an_embedding_differs_by_its_pooling(results):
    (path,) = results.glob("trials/dcase2023/raw_aisfx-*/seed0/output/last/fan/test_extract.parquet")
    table = pq.read_table(path)
    assert table.column_names == ["clip", *EMBEDDINGS]
    sizes = [table.schema.field(name).type.list_size for name in EMBEDDINGS]
    assert sizes == [512, 512, 1024, 512, 512, 512, 512]


def test_trial_json_names_the_weights(results):
    (path,) = results.glob("trials/dcase2023/raw_aisfx-*/seed0/trial.json")
    (weights,) = json.loads(path.read_text())["inputs"]["encoder"]
    assert weights["sha256"] == "499ea75909c932a2f94c35fa722fa4fabc5bcb7e84917209cc5f7402627b7eb5"
    assert weights["name"] == "aisfx"
