"""A real pretrained encoder through a whole sweep on a local Ray: seven poolings, four backends, one extraction."""

import json
import shutil
import subprocess
import sys
from collections import Counter

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from pretrained import aisfx_data

from asdray.dcase.format import format_dataset
from asdray.dcase.synth import synthesise

pytestmark = pytest.mark.ray

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
SPEC = {
    "name": "poolings",
    "recipes": {"raw_spec": {}, "raw_aisfx": {"set": {"frontend.poolings": POOLINGS}}},
    "dcase": ["dcase2023"],
    "seeds": [0],
    "machines": {"dcase2023": MACHINES},
    "backends": ["knn", *({"name": name, "embedding": EMBEDDINGS} for name in BACKENDS)],
    "umap": False,
    "choose_by": "dcase2023-dev",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    data = tmp_path_factory.mktemp("poolings") / "data"
    synthesise(data, "dcase2023", machines=MACHINES, train=24, test=20, seconds=2.0, workers=1)
    format_dataset(data, "dcase2023")
    shutil.copytree(aisfx_data(tmp_path_factory) / "encoders", data / "encoders")
    path = data.parent / "sweep.yaml"
    path.write_text(yaml.safe_dump(SPEC))
    command = ["sweep", path, "--data", data, "--results", data.parent / "results", "--no-dashboard"]
    run = subprocess.run(
        [sys.executable, "-m", "asdray", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return data.parent / "results"


@pytest.fixture(scope="module")
def board(results):
    return pd.read_csv(results / "sweeps" / "poolings" / "leaderboard.csv")


def test_one_extraction_per_machine(results):
    lines = (results / "sweeps" / "poolings" / "events.jsonl").read_text().splitlines()
    events = [event for event in map(json.loads, lines) if event["system"].startswith("raw_aisfx")]
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
    (chosen,) = choice.loc[choice["selected"], key].itertuples(index=False)
    (oracle,) = choice.loc[choice["oracle"], key].itertuples(index=False)
    assert tuple(chosen) == tuple(ours.loc[ours["dcase2023-dev_mean"].idxmax(), key])
    assert tuple(oracle) == tuple(ours.loc[ours["dcase2023-eval_mean"].idxmax(), key])
    rho = choice["dev"].rank().corr(choice["eval"].rank())
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
