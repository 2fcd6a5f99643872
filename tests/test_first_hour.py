"""The files in examples: own recordings, plugins, recipes, embeddings, a sweep of them, and its analysis."""

import csv
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import torch.nn.functional as F
import yaml
from no_plugins import forget_plugins
from sweeping import in_process

from asdray.config.expand import load_sweep

EXAMPLES = Path(__file__).parent.parent / "examples"
PLUGINS = ("own_loss.py", "own_network.py", "own_frontend.py", "own_backend.py")
RATE = 44100


def script(name, *arguments):
    """Runs a script of examples, and returns its names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        return runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def module(name):
    return runpy.run_path(str(EXAMPLES / name))


def recordings(folder):
    """Hums of two machines, at 44.1 kHz; anomalies have an overtone. Returns the list of them."""
    rng = np.random.default_rng(0)
    rows = []
    counts = {("train", "source", "normal"): 6, ("train", "target", "normal"): 3}
    counts |= {
        ("test", domain, label): 3 for domain in ("source", "target") for label in ("normal", "anomaly")
    }
    for machine, pitch in (("fan", 300), ("valve", 500)):
        for (split, domain, label), n in counts.items():
            for i in range(n):
                name = f"{machine}_{split}_{domain}_{label}_{i}.wav"
                hum = 2 * np.pi * pitch * (1.2 if domain == "target" else 1) * np.arange(RATE) / RATE
                wave = 0.2 * np.sin(hum) + 0.1 * np.sin(3.3 * hum) * (label == "anomaly")
                soundfile.write(folder / name, wave + 0.02 * rng.standard_normal(RATE), RATE)
                attributes = f"speed_{i % 2}" if domain == "source" else ""
                rows.append((name, machine, split, domain, label, attributes))
    with (folder / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "machine", "split", "domain", "label", "attributes"), *rows])
    return folder / "list.csv"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with ``data`` and ``results``: own recordings, and the sweep of examples with smaller trainings."""
    root = tmp_path_factory.mktemp("first")
    (root / "wavs").mkdir()
    script("own_data.py", recordings(root / "wavs"), root / "data")
    in_process("format", "dcase2024", "--partial", "--data", root / "data")
    script("embed.py", root / "data", "dcase2024")
    for path in EXAMPLES.glob("own_*"):
        text = path.read_text().replace("epochs: 16", "epochs: 1").replace("[0.1, 0.35]", "[0.3]")
        (root / path.name).write_text(text.replace("seeds: [0, 1]", "seeds: [0]\numap: false\nreport: false"))
    places = ("--data", root / "data", "--results", root / "results")
    plugins = [word for path in PLUGINS for word in ("--plugin", root / path)]
    kernels = ("{name: kernel, width: 0.05}", "{name: kernel, width: 0.2}")  # the sweep then starts no Ray
    backends = [word for backend in ("knn", *kernels) for word in ("--backend", backend)]
    try:
        for recipe, *options in (
            ["raw_spec"],
            [root / "own_cepstra.yaml"],
            [root / "own_embeddings.yaml"],
            [root / "own_recipe.yaml", "--set", "frontend.loss.margin=0.3"],
        ):
            where = ("dcase2024", "--machines", "fan,valve", "--no-umap")
            in_process("run", recipe, *where, *options, *backends, *plugins, *places)
        in_process("sweep", root / "own_sweep.yaml", *places)
    finally:
        forget_plugins()
    return root


def test_own_recordings_become_clips_of_16_khz_with_their_labels(site):
    clips = pd.read_parquet(site / "data" / "formatted" / "dcase2024" / "clips.parquet")
    assert set(clips["sample_rate"]) == {16000}
    assert set(clips["n_samples"]) == {16000}
    counts = clips.groupby(["machine", "split", "domain", "is_anomaly"]).size()
    assert counts["fan", "train", "source", False] == 6
    assert counts["valve", "test", "target", True] == 3
    assert set(clips["attributes"]) == {"speed_0", "speed_1", "noAttribute"}


def test_wrong_rows_of_own_recordings_are_named(tmp_path):
    listed = tmp_path / "list.csv"
    head = "file,machine,split,domain,label,attributes\n"
    listed.write_text(head + "a.wav,pump,train,source,normal,\n")
    with pytest.raises(ValueError, match="'pump' is none of ToyCar"):
        script("own_data.py", listed, tmp_path)
    listed.write_text(head + "a.wav,fan,train,source,anomaly,\n")
    with pytest.raises(ValueError, match=r"a\.wav is an anomaly"):
        script("own_data.py", listed, tmp_path)
    listed.write_text(head + "a.wav,fan,train,source,normal,Drehzahl ä\n", encoding="utf-8")
    with pytest.raises(ValueError, match="'Drehzahl ä': attributes have letters"):
        script("own_data.py", listed, tmp_path)


def test_the_sweep_has_a_row_for_every_own_part_and_they_find_the_overtone(site):
    board = pd.read_csv(site / "results" / "sweeps" / "own_sweep" / "leaderboard.csv")
    assert {system.split("-")[0] for system in board["system"]} == {"raw_spec", "own_cepstra", "own_recipe"}
    assert len(board) == 3 * 3  # systems, backends
    assert board["dcase2024-dev_mean"].max() == 1


def test_own_embeddings_are_scored(site):
    trials = site / "results" / "trials" / "dcase2024"
    (table,) = trials.glob("own_embeddings-*/seed0/output/last/official24-dev.csv")
    assert pd.read_csv(table)["total"].between(0.5, 1).all()


def test_the_analysis_prints_the_sweeps_numbers(site, capsys):
    folder = site / "results" / "sweeps" / "own_sweep"
    script("analysis.py", folder)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    printed = sorted(float(words[-3]) for words in lines if "fan" in words and words[-1] == "1")
    tables = pd.read_csv(folder / "tables" / "official24-dev.csv")
    np.testing.assert_allclose(printed, sorted(100 * tables["fan"]), atol=0.006)


def test_the_files_are_those_of_the_sweep():
    try:
        spec = load_sweep(EXAMPLES / "own_sweep.yaml")
    finally:
        forget_plugins()
    assert spec.seeds == (0, 1)


def test_cosface_is_the_cross_entropy_of_cosines_less_the_margin():
    names = module("own_loss.py")
    config = names["CosFaceConfig"](scale=10, margin=0.2)
    loss = names["CosFace"](config, 3, 2)
    vectors = torch.tensor([[1.0, 2.0, 0.5], [-1.0, 0.3, 0.0]])
    cosines = F.cosine_similarity(vectors[:, None], loss.centres[None], dim=2)
    right = torch.tensor([1, 0])
    logits = 10 * (cosines - 0.2 * F.one_hot(right, 2))
    torch.testing.assert_close(loss(vectors, F.one_hot(right, 2).float()), F.cross_entropy(logits, right))


def test_the_kernel_backend_gives_both_domains_the_same_weight():
    names = module("own_backend.py")
    references = np.array([[1.0, 0.0]] * 9 + [[0.0, 1.0]])
    domain = np.array(["source"] * 9 + ["target"])
    scores = names["kernel"](
        names["KernelConfig"](width=0.1), references, domain, np.array([[2.0, 0], [0, 3], [1, 1]])
    )
    assert scores[0] == pytest.approx(scores[1]) == pytest.approx(-10)
    assert scores[2] == pytest.approx(-10 * np.sqrt(0.5))


def test_cepstra_are_the_cosine_transform_of_log_mel_bands():
    names = module("own_frontend.py")
    frontend = names["Cepstra"](names["CepstraConfig"](n_mels=16, n_cepstra=16), 16000, None, None)
    waves = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    found = frontend.extract(waves)["embedding"]
    frames = torch.stft(waves, 1024, 512, window=torch.hann_window(1024), return_complex=True).abs()
    mels = torch.einsum("mf,bft->bmt", frontend.filters, frames).clamp(min=1e-6).log().mean(dim=2)
    from scipy.fft import dct

    np.testing.assert_allclose(found[:, :16], dct(mels.numpy(), type=2) / 2, rtol=1e-4, atol=1e-4)


def test_the_first_sweeps_plan_every_pair_and_their_own_parts_train(tmp_path):
    """Those of docs/first.md, on its clips: each network with the own loss, for an epoch."""
    places = ("--data", tmp_path / "data", "--results", tmp_path / "results")
    in_process(
        "synth",
        "dcase2023",
        "--machines",
        "fan,bandsaw",
        "--train",
        24,
        "--test",
        16,
        "--seconds",
        2,
        *places[:2],
    )
    in_process("format", "dcase2023", *places[:2])
    try:
        for name, trials in (("first", 4), ("first_own", 8)):
            planned = in_process("sweep", EXAMPLES / f"{name}.yaml", "--dry-run", *places)
            assert f"{trials} trials, 0 done" in planned
        recipe = yaml.safe_load((EXAMPLES / "first_own.yaml").read_text())["recipes"]["dis_baseline"]
        plugins = [word for path in PLUGINS[:2] for word in ("--plugin", EXAMPLES / path)]
        for branches in recipe["space"]["frontend.branches"]:
            options = {
                **recipe["set"],
                "frontend.branches": branches,
                "frontend.loss": recipe["space"]["frontend.loss"][1],
            }
            sets = [
                word
                for key, value in {**options, "train.epochs": 1}.items()
                for word in ("--set", f"{key}={json.dumps(value)}")
            ]
            in_process(
                "run",
                "dis_baseline",
                "dcase2023",
                "--machines",
                "fan,bandsaw",
                "--no-umap",
                *sets,
                *plugins,
                *places,
            )
    finally:
        forget_plugins()
    tables = list((tmp_path / "results" / "trials").glob("*/*/seed0/output/last/official23-eval.csv"))
    assert len(tables) == 2
