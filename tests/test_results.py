"""`asdray.load_results` of a sweep, a trial and a results folder: rows, speed, errors."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_scoring_stages import CKPT, all_stages, train_and_extract
from trees import build_tree, write_list

import asdray
from asdray import results, store
from asdray.addresses import find_trials
from asdray.config.backend import Knn, Recon, backend_id
from asdray.config.files import validate
from asdray.config.sweep import Sweep
from asdray.dcase.format import format_dataset
from asdray.evaluation.tables import SCHEMA, write_trials
from asdray.report.content import Content, TrialRow
from asdray.stages.steps import Request, Snapshot, TrialFiles
from asdray.stages.trial_json import write_trial
from asdray.store import Places, SweepDir
from asdray.sweep import outputs
from asdray.sweep.jobs import trial_row
from asdray.sweep.plan import plan

DCASE = "dcase2023"
HEAD = ["system", "recipe"]
TAIL = [
    "dcase", "seed", "machine", "section", "subset", "backend", "checkpoint", "metric", "value", "backend_id",
    "dataset",
]  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A sweep whose trials hold more results than its file names: a further backend, a further machine."""
    data = tmp_path_factory.mktemp("data")
    write_list(build_tree(data, DCASE, ["fan", "bandsaw"], {"source": 6, "target": 2}, per_cell=4))
    format_dataset(data, DCASE)
    places = Places.of(data, tmp_path_factory.mktemp("results"))
    sweep = validate(
        Sweep,
        {
            "name": "grid",
            "recipes": {
                "dis_baseline": {"space": {"train.learning_rate": [0.001, 0.01], "frontend.mixup_probability": [0.0, 1.0]}},
                "ae_baseline": {"space": {"train.learning_rate": [0.002]}},
            },
            "dcase": [DCASE],
            "seeds": [0, 1],
            "machines": {DCASE: ["fan", "bandsaw"]},
            "backends": ["knn"],
            "umap": False,
        },
        "test",
    )  # fmt: skip
    jobs = plan(sweep, places, "test")
    for job in jobs[:-1]:  # the last trial never ran
        write_trial(TrialFiles(job.trial, places, job.dataset), Request((CKPT,), job.backends))
        train_and_extract(job.trial, places)
        all_stages(job.trial, places, (Knn(), Knn(n_neighbors=2)))
    folder = store.sweep_dir(places.results, sweep.name)
    outputs.write_spec(sweep, folder)
    rows = [trial_row(job, job.steps(sweep, places), places, []) for job in jobs]
    write_trials(rows, folder)
    return places, sweep, jobs


def test_a_sweep_yields_its_trials_with_swept_options(world):
    places, _, jobs = world
    frame = asdray.load_results(store.sweep_dir(places.results, "grid"))
    assert list(frame.columns) == [*HEAD, "train.learning_rate", "frontend.mixup_probability", "part", *TAIL]
    assert set(frame["part"]) == {"grid"}
    # dis: 4 systems x 2 seeds x 2 machines x (8 of the section, 9 of all); ae: one of its two seeds.
    assert len(frame) == (4 * 2 + 1) * 2 * 17
    assert set(frame["backend"]) == {"knn", "recon"}  # no second kNN to tell it from
    assert set(frame["backend_id"]) == {backend_id(Knn()), backend_id(Recon())}
    assert set(frame["dataset"]) == {"official"}
    for job in jobs[:-1]:
        mine = frame[(frame["system"] == job.trial.system_name) & (frame["seed"] == job.trial.seed)]
        assert set(mine["train.learning_rate"]) == {job.swept["train.learning_rate"]}
        if job.trial.recipe == "ae_baseline":
            assert mine["frontend.mixup_probability"].isna().all()
        else:
            assert set(mine["frontend.mixup_probability"]) == {job.swept["frontend.mixup_probability"]}
        table = pd.read_parquet(store.trial_dir(places.results, job.trial).metrics)
        keys = ["machine", "subset", "section", "metric"]
        wanted = table[table["backend"].isin(mine["backend_id"])].set_index(keys)["value"].sort_index()
        pd.testing.assert_series_equal(mine.set_index(keys)["value"].sort_index(), wanted)
    assert frame["value"].between(0, 1).all()
    assert pd.api.types.is_float_dtype(frame["train.learning_rate"])


def test_a_search_yields_the_years_of_search_and_confirmation(tmp_path):
    options = {
        "name": "hunt",
        "recipes": {"dis_baseline": {"space": {"frontend.window_seconds": [1.0, 2.0]}}},
        "dcase": ["dcase2023"],
        "seeds": [0],
        "backends": ["knn"],
        "search": {"algorithm": "random", "num_samples": 1, "objective": "official_dev"},
        "confirm": {"seeds": [7], "dcase": ["dcase2024"]},
    }
    sweep = validate(Sweep, options, "test")
    folder = store.sweep_dir(tmp_path, "hunt")
    outputs.write_spec(sweep, folder)
    planned = []
    for part, dcase, seed in (("search", "dcase2023", 0), ("confirm", "dcase2024", 7)):
        trial = store.TrialDir(tmp_path / "trials" / "dis_baseline" / dcase / f"seed{seed}")
        system = {"frontend": {}}
        described = {
            "dcase": dcase, "recipe": "dis_baseline", "system_id": "1", "seed": seed, "system": system,
            "dataset": {"kind": "official"},
        }  # fmt: skip
        store.write_json(trial.trial_json, described)
        row = {
            "dcase": dcase, "system": "dis_baseline-1", "recipe": "dis_baseline", "seed": seed,
            "checkpoint": CKPT, "machine": "fan", "subset": "dev", "section": -1,
            "backend": backend_id(Knn()), "metric": "official", "value": 0.5, "dataset": "official",
        }  # fmt: skip
        pq.write_table(pa.Table.from_pylist([row], SCHEMA), trial.metrics)
        planned.append(
            {
                "dcase": dcase, "recipe": "dis_baseline", "system": "dis_baseline-1", "seed": seed,
                "part": part, "swept": {"frontend.window_seconds": 2.0}, "status": "done",
                "seconds": {"train": 1.0}, "device": None, "error": None,
                "directory": trial.root.relative_to(tmp_path).as_posix(), "dataset": "official",
            }
        )  # fmt: skip
    write_trials(planned, folder)
    frame = asdray.load_results(folder)
    assert list(frame.columns) == [*HEAD, "frontend.window_seconds", "part", *TAIL]
    assert frame[["part", "dcase", "seed", "frontend.window_seconds"]].to_numpy().tolist() == [
        ["search", "dcase2023", 0, 2.0],
        ["confirm", "dcase2024", 7, 2.0],
    ]


def test_a_sweep_is_found_by_name_below_the_results_folder(world, monkeypatch, tmp_path):
    places = world[0]
    folder = store.sweep_dir(places.results, "grid")
    monkeypatch.setenv("ASDRAY_RESULTS", str(places.results))
    pd.testing.assert_frame_equal(asdray.load_results("grid"), asdray.load_results(str(folder)))
    with pytest.raises(ValueError, match=r"gird is no sweep's folder \(or name\)"):
        asdray.load_results("gird")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid").mkdir()  # a folder of the user, without results, hides no sweep
    assert asdray.Results("grid").folder == folder
    (tmp_path / "trials").mkdir()
    assert asdray.load_results(".").empty


def test_a_trial_yields_all_its_evaluations(world):
    places, _, jobs = world
    frame = asdray.load_results(store.trial_dir(places.results, jobs[0].trial).root)
    assert list(frame.columns) == [*HEAD, *TAIL]
    assert set(frame["backend"]) == {"knn(n_neighbors=1)", "knn(n_neighbors=2)"}
    assert len(frame) == 2 * 2 * 17


def test_a_results_folder_has_columns_for_differing_options(world):
    places = world[0]
    frame = asdray.load_results(places.results)
    # ae_baseline has one system: nothing to tell apart.
    assert list(frame.columns) == [*HEAD, "frontend.mixup_probability", "train.learning_rate", *TAIL]
    assert len(frame) == 8 * 2 * 2 * 17 + 2 * 17
    assert frame[frame["recipe"] == "ae_baseline"]["train.learning_rate"].isna().all()
    dis = frame[frame["recipe"] == "dis_baseline"].drop_duplicates("system")
    assert {tuple(v) for v in dis[["frontend.mixup_probability", "train.learning_rate"]].to_numpy()} == {
        (mixup, rate) for mixup in (0.0, 1.0) for rate in (0.001, 0.01)
    }


def test_copies_of_folders_do_not_count(world, capsys):
    """``cp -r``, the Finder, Windows: a copy would be another trial, checkpoint or seed of the means."""
    places, _, jobs = world
    sweep = places.results / "sweeps" / "grid"
    before, before_sweep = asdray.load_results(places.results), asdray.load_results(sweep)
    trial = store.trial_dir(places.results, jobs[0].trial).root
    copies = [
        (trial, trial.with_name("seed0_old")),
        (trial, trial.with_name("Copy of seed0")),
        (trial.parent, trial.parent.with_name(f"{trial.parent.name} copy")),
        (trial.parents[1], trial.parents[1].with_name("dcase2023 - Copy")),
    ]
    try:
        for origin, copy in copies:
            shutil.copytree(origin, copy)
        pd.testing.assert_frame_equal(asdray.load_results(places.results), before)
        pd.testing.assert_frame_equal(asdray.load_results(sweep), before_sweep)
        told = capsys.readouterr().err
        for _, copy in copies[:2]:
            assert f"{copy} is left out: its name is not dcase2023/{trial.parent.name}/seed0, as its" in told
        assert f"{copies[2][1]}/seed0 is left out" in told
        assert find_trials(jobs[0].trial.name, places.results) == [trial]
        assert find_trials(str(trial.parent), places.results) == [trial, trial.with_name("seed1")]
        assert find_trials(str(copies[0][1]), places.results) == [copies[0][1]]  # asked for by name
    finally:
        for _, copy in copies:
            shutil.rmtree(copy)


def test_copies_inside_of_a_trial_do_not_count(world):
    places, _, jobs = world
    trial, of = jobs[0].trial, TrialFiles(jobs[0].trial, places, jobs[0].dataset)
    row = TrialRow(trial.dcase, trial.recipe, trial.system_name, trial.seed, of.folder)
    output, model = of.folder.output(CKPT), of.folder.model(trial.units[0].name)
    (model / store.EPOCHS_FILE).write_text("epoch,loss\n1,0.5\n")
    before = Snapshot(of).table((CKPT,))
    copies = [output.with_name(f"{CKPT} copy"), model.with_name(f"{model.name} copy")]
    try:
        for origin, copy in zip((output, model), copies, strict=True):
            shutil.copytree(origin, copy)
        assert Snapshot(of).table((CKPT,)) == before
        assert before.complete
        content = Content(SweepDir(places.results), None, {}, known_trials=[row])
        assert [training.losses for training in content.trainings] == [[0.5]]
    finally:
        (model / store.EPOCHS_FILE).unlink()
        for copy in copies:
            shutil.rmtree(copy)


def test_copies_of_ensembles_do_not_count(tmp_path, capsys):
    row = dict.fromkeys(SCHEMA.names) | {
        "dcase": DCASE,
        "system": "top3",
        "seed": -1,
        "checkpoint": CKPT,
        "backend": "knn-1",
    }
    table = pa.Table.from_pylist([row], schema=SCHEMA)
    folder = store.ensemble_dir(tmp_path, "grid", "top3", CKPT, "knn-1", DCASE, None)
    for path in (folder, folder.with_name("seeds copy")):
        path.mkdir(parents=True)
        pq.write_table(table, store.ensemble_metrics(path))
    found = SweepDir(store.sweep_dir(tmp_path, "grid")).ensemble_metrics()
    assert len(found) == 2
    assert len(results._frame([], lambda systems: {}, ensembles=found)) == 1
    assert f"{folder.with_name('seeds copy')} is left out" in capsys.readouterr().err


def test_wrong_paths_and_damaged_files_are_errors(world, tmp_path):
    places, _, jobs = world
    with pytest.raises(ValueError, match="no results folder: there is no sweep.yaml, trial.json or trials/"):
        asdray.load_results(tmp_path)
    trial = dataclasses.replace(jobs[0].trial, seed=7)
    folder = write_trial(
        TrialFiles(trial, Places.of(places.data, tmp_path), jobs[0].dataset), Request((CKPT,), (Knn(),))
    )
    with pytest.raises(ValueError, match="is not evaluated yet: run `asdray table"):
        asdray.load_results(folder)
    assert len(asdray.load_results(tmp_path)) == 0
    old = pa.table({name: [] for name in SCHEMA.names if name != "dataset"})
    pq.write_table(old, store.TrialDir(folder).metrics)
    with pytest.raises(ValueError, match=r"metrics\.parquet was written by another version"):
        asdray.load_results(folder)
    store.TrialDir(folder).metrics.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"metrics\.parquet is damaged"):
        asdray.load_results(folder)


def test_unlabelled_scores_are_nan(world, tmp_path):
    places, _, jobs = world
    trial = jobs[0].trial
    folder = write_trial(
        TrialFiles(trial, Places.of(places.data, tmp_path), jobs[0].dataset), Request((CKPT,), (Knn(),))
    )
    head = {
        "dcase": DCASE,
        "recipe": trial.recipe,
        "system": trial.system_name,
        "seed": 0,
        "checkpoint": CKPT,
    }
    rows = [
        head | {"machine": "fan", "subset": "dev", "section": -1, "backend": "x-1", "metric": "official", "value": v}
        for v in (0.5, None)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), store.TrialDir(folder).metrics)
    frame = asdray.load_results(folder)
    assert frame["value"].isna().tolist() == [False, True]
    assert frame["value"].mean() == 0.5
    assert set(frame["backend"]) == {"x-1"}  # of which nobody knows the options


def test_importing_asdray_is_light_and_offers_load_results():
    code = (
        "import sys, asdray\n"
        "heavy = {'numpy', 'pandas', 'pyarrow', 'torch', 'ray', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert callable(asdray.load_results)\n"
        "assert not {'torch', 'ray', 'matplotlib'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'load_result'"):
        _ = asdray.load_result


def test_hundreds_of_trials_load_quickly(tmp_path):
    """200 trials of 16 machines and 4 backends, with the files of their results only."""
    import time

    rng = np.random.default_rng(0)
    machines = [f"m{i}" for i in range(16)]
    body = [
        {"machine": m, "subset": "dev", "section": s, "backend": f"knn-{b}", "metric": f"metric{k}"}
        for m in machines for b in range(4) for s in (0, -1) for k in range(8)
    ]  # fmt: skip
    for i in range(200):
        system, seed = f"dis-{i // 4:08x}", i % 4
        root = tmp_path / "trials" / DCASE / system / f"seed{seed}"
        root.mkdir(parents=True)
        head = {"dcase": DCASE, "recipe": "dis", "system": system, "seed": seed, "checkpoint": CKPT}
        values = rng.uniform(size=len(body))
        if i == 0:
            table = pa.Table.from_pylist([head | row | {"value": 0.0} for row in body], schema=SCHEMA)
        for name in ("system", "seed"):
            column = pa.repeat(pa.scalar(head[name], SCHEMA.field(name).type), len(body))
            table = table.set_column(SCHEMA.get_field_index(name), name, column)
        table = table.set_column(SCHEMA.get_field_index("value"), "value", pa.array(values))
        pq.write_table(table, root / "metrics.parquet")
        described = {
            "recipe": "dis", "system_id": f"{i // 4:08x}", "dcase": DCASE, "seed": seed,
            "system": {"train": {"lr": i // 4}}, "dataset": {"kind": "synthetic"},
        }  # fmt: skip
        (root / "trial.json").write_text(json.dumps(described))
    start = time.process_time()
    frame = asdray.load_results(tmp_path)
    assert time.process_time() - start < 6  # about 1 s
    assert len(frame) == 200 * len(body)
    assert frame["train.lr"].nunique() == 50
