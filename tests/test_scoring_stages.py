"""Score, evaluate, umap and table on files, below a training and an extraction that are made up here."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finished import finished, snapshot
from threadpoolctl import threadpool_limits
from trees import build_tree, write_list

from asdray import store
from asdray.backends.knn import knn
from asdray.config.backend import Knn, Own, Recon, Umap, backend_id
from asdray.config.sweep import check_backends
from asdray.config.system import load_recipe
from asdray.config.trial import Trial
from asdray.dcase.format import format_dataset
from asdray.dcase.manifest import load_manifest, rows
from asdray.evaluation import metrics, tables
from asdray.stages.evaluate import evaluate
from asdray.stages.score import score
from asdray.stages.steps import Outcome, TrialFiles
from asdray.stages.table import table
from asdray.stages.umap import embed, umap
from asdray.store import Places

DCASE, MACHINES, CKPT = "dcase2023", ("fan", "bandsaw"), "last"
BACKENDS = (Knn(), Knn(n_neighbors=2))


def train_and_extract(trial: Trial, places: Places, shift: float = 0.0, nan: bool = False) -> None:
    """The files of the two earlier stages: random embeddings, anomalies a little away from the rest."""
    directory = store.trial_dir(places.results, trial)
    rng = np.random.default_rng(trial.seed)
    for unit in trial.units:
        checkpoint = directory.checkpoint(unit.name, CKPT)
        store.write_text(checkpoint, f"weights {shift}")
        finished(snapshot(trial, places).train(unit), [checkpoint])
    for machine in trial.machines:
        outputs = []
        for split in ("train", "test"):
            clips = rows(load_manifest(places.data, trial.dcase), machine=machine, split=split)[
                "clip"
            ].to_pylist()
            # Extraction is free to write clips in any order.
            clips = [clips[i] for i in rng.permutation(len(clips))]
            x = rng.normal(size=(len(clips), 5)) + 3 + shift * np.arange(5)
            if nan and split == "test":
                x[0, 0] = np.nan
            columns = {
                "clip": pa.array(clips),
                "embedding": pa.FixedSizeListArray.from_arrays(x.astype(np.float32).ravel(), 5),
                "recon": pa.array(np.linalg.norm(x, axis=1).astype(np.float32)),
            }
            outputs.append(directory.extract(CKPT, machine, split))
            with store.atomic_path(outputs[-1]) as temporary:
                pq.write_table(pa.table(columns), temporary)
        finished(snapshot(trial, places).extract(machine, CKPT), outputs)


def all_stages(trial: Trial, places: Places, backends=BACKENDS) -> list[Outcome]:
    """Everything that follows extraction, in the order in which it is done by hand."""
    outcomes = []
    for machine in trial.machines:
        outcomes += [
            score(TrialFiles.load(trial, places), machine, CKPT, b) for b in trial.backends(backends)
        ]
        outcomes.append(evaluate(TrialFiles.load(trial, places), machine, CKPT, trial.backends(backends)))
    outcomes.append(table(TrialFiles.load(trial, places), [CKPT], trial.backends(backends)))
    return outcomes


def found(outcomes):
    return [o.reused for o in outcomes]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A formatted year with ground truth; tests that change it make their own."""
    folder = tmp_path_factory.mktemp("data")
    write_list(build_tree(folder, DCASE, list(MACHINES), {"source": 6, "target": 2}, per_cell=4))
    format_dataset(folder, DCASE)
    return folder


@pytest.fixture
def places(data, tmp_path) -> Places:
    return Places.of(data, tmp_path / "results")


@pytest.fixture
def trial() -> Trial:
    return Trial(DCASE, "dis_baseline", load_recipe("dis_baseline").system, 0, MACHINES)


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_score_is_the_backend_by_clip(trial, places):
    train_and_extract(trial, places)
    directory = store.trial_dir(places.results, trial)
    outcome = score(TrialFiles.load(trial, places), "fan", CKPT, BACKENDS[1])
    assert not outcome.reused
    found = pq.read_table(directory.scores(CKPT, "fan", backend_id(BACKENDS[1])))
    assert found.column_names == ["clip", "split", "score"]
    train, test = (pd.read_parquet(directory.extract(CKPT, "fan", s)) for s in ("train", "test"))
    domain = np.array(["target" if "_target_" in c else "source" for c in train["clip"]])
    x, q = np.stack(train["embedding"]), np.stack(test["embedding"])
    expected = dict(
        zip(train["clip"], knn(x, domain, x, Knn(n_neighbors=2), leave_one_out=True), strict=True)
    )
    expected |= dict(zip(test["clip"], knn(x, domain, q, Knn(n_neighbors=2)), strict=True))
    assert dict(zip(found["clip"].to_pylist(), found["score"].to_pylist(), strict=True)) == expected
    assert set(found["split"].to_pylist()) == {"train", "test"}
    assert score(TrialFiles.load(trial, places), "fan", CKPT, BACKENDS[1]) == Outcome(
        outcome.record, reused=True
    )


def test_recon_passes_through(places):
    trial = Trial(DCASE, "ae_baseline", load_recipe("ae_baseline").system, 0, MACHINES)
    train_and_extract(trial, places)
    (backend,) = trial.backends(BACKENDS)
    assert backend.name == "recon"
    score(TrialFiles.load(trial, places), "fan", CKPT, backend)
    directory = store.trial_dir(places.results, trial)
    found = pd.read_parquet(directory.scores(CKPT, "fan", backend_id(backend))).set_index("clip")["score"]
    test = pd.read_parquet(directory.extract(CKPT, "fan", "test")).set_index("clip")["recon"]
    assert found[test.index].to_numpy() == pytest.approx(test.to_numpy())
    assert len(found) == 8 + 16


def test_every_backend_through_the_stages(trial, places):
    train_and_extract(trial, places)
    names = ["knn", "kmeans", "knn_rescale", "ldn", "mahalanobis", "gmm"]
    backends = check_backends(
        [*names, {"name": "knn", "smote_ratio": 0.5}, {"name": "pyod", "detector": "ECOD"}], "backends"
    )
    backends += tuple(b.model_copy(update={"sep_section": True}) for b in backends)
    with threadpool_limits(1):  # as in the workers
        assert not any(found(all_stages(trial, places, backends)))
    assert all(found(all_stages(trial, places, backends)))
    directory = store.trial_dir(places.results, trial)
    view = pd.read_csv(directory.score_view(CKPT, "fan", "test"))
    ids = [backend_id(b) for b in backends]
    assert np.isfinite(view[ids].to_numpy()).all()
    # 2023 has one section per machine: apart or not, it is scored by the same clips.
    for together, apart in zip(ids[:8], ids[8:], strict=True):
        assert together != apart
        assert (view[together] == view[apart]).all()
    shown = pd.read_csv(directory.output(CKPT) / "official23-dev.csv")
    assert {"ldn(sep_section=false)", "pyod(detector=ECOD, sep_section=true)"} <= set(shown["backend"])
    assert shown["total"].notna().all()


def test_own_scores_of_any_name_pass_through(places):
    trial = Trial(DCASE, "ae_baseline", load_recipe("ae_baseline").system, 0, MACHINES)
    train_and_extract(trial, places)
    with pytest.raises(ValueError, match=r"fan: .* no score of its own called 'mahalanobis'"):
        score(TrialFiles.load(trial, places), "fan", CKPT, Own(score="mahalanobis"))
    score(TrialFiles.load(trial, places), "fan", CKPT, Own(score="recon"))
    score(TrialFiles.load(trial, places), "fan", CKPT, Recon())
    directory = store.trial_dir(places.results, trial)
    own, recon = (
        pq.read_table(directory.scores(CKPT, "fan", backend_id(b))) for b in (Own(score="recon"), Recon())
    )
    assert own.equals(recon)


def test_evaluate_and_table(trial, places):
    train_and_extract(trial, places)
    all_stages(trial, places)
    directory = store.trial_dir(places.results, trial)
    ids = [backend_id(b) for b in BACKENDS]
    for machine, subset in zip(MACHINES, ("dev", "eval"), strict=True):
        view = pd.read_csv(directory.score_view(CKPT, machine, "test"))
        facts = ["clip", "machine", "section", "domain", "is_anomaly"]
        assert list(view.columns) == [*facts, *sorted(ids), "dataset"]
        assert set(view["dataset"]) == {"official"}
        assert len(view) == 16
        evaluated = {
            (r["section"], r["backend"], r["metric"]): float(r["value"])
            for r in read_csv(directory.evaluate(CKPT, machine))
            if r["subset"] == subset
        }
        assert len(evaluated) == 2 * (8 + 9)
        for name in ids:
            expected = metrics.section_metrics(
                view[name].to_numpy(), view["is_anomaly"].tolist(), view["domain"].tolist()
            )
            assert {m: evaluated["0", name, m] for m in metrics.METRICS} == expected
            official = metrics.harmonic_mean([expected[m] for m in ("smix_auc", "tmix_auc", "mix_pauc")])
            assert evaluated["-1", name, "official"] == official
        train = pd.read_csv(directory.score_view(CKPT, machine, "train"))
        assert not train["is_anomaly"].any()
        assert train[ids].notna().all(axis=None)

        official = pd.read_csv(directory.output(CKPT) / f"official23-{subset}.csv")
        assert list(official.columns) == ["backend", machine, "total", "machines", "dataset"]
        assert set(official["machines"]) == {"1 of 7"}
        assert official["backend"].tolist() == ["knn(n_neighbors=1)", "knn(n_neighbors=2)"]
        assert official[machine].tolist() == [evaluated["-1", name, "official"] for name in ids]
        assert official["total"].tolist() == pytest.approx(official[machine].tolist())
    long = pq.read_table(directory.metrics)
    assert long.schema.equals(tables.SCHEMA)
    assert len(long) == 2 * 2 * (8 + 9)
    assert set(long["system"].to_pylist()) == {f"dis_baseline-{trial.system.id}"}


def test_stages_ask_for_what_they_read(trial, places):
    with pytest.raises(ValueError, match=r"fan is not extracted .* run `asdray extract` first"):
        score(TrialFiles.load(trial, places), "fan", CKPT, Knn())
    with pytest.raises(ValueError, match="run `asdray extract` first"):
        umap(TrialFiles.load(trial, places), "fan", CKPT, Umap())
    with pytest.raises(ValueError, match="no machine is evaluated yet"):
        table(TrialFiles.load(trial, places), [CKPT], BACKENDS)
    train_and_extract(trial, places)
    score(TrialFiles.load(trial, places), "fan", CKPT, Knn())
    with pytest.raises(ValueError, match="not scored by all of"):
        evaluate(TrialFiles.load(trial, places), "fan", CKPT, BACKENDS)
    with pytest.raises(ValueError, match="formatted without"):
        score(TrialFiles.load(trial, places, ["valve"]), "valve", CKPT, Knn())


def test_everything_is_done_once_and_redone_where_it_must(trial, places):
    train_and_extract(trial, places)
    assert not any(found(all_stages(trial, places)))
    assert all(found(all_stages(trial, places)))
    directory = store.trial_dir(places.results, trial)

    # One deleted score file: its score is made again, and since it is the same bytes, nothing else.
    directory.scores(CKPT, "fan", backend_id(BACKENDS[0])).unlink()
    assert found(all_stages(trial, places)) == [False, True, True, True, True, True, True]
    directory.evaluate(CKPT, "fan").unlink()
    assert found(all_stages(trial, places)) == [True, True, False, True, True, True, True]
    (directory.output(CKPT) / "official23-dev.csv").unlink()
    assert found(all_stages(trial, places)) == [True, True, True, True, True, True, False]

    # One more backend: only that one scores, then evaluation and table.
    more = (*BACKENDS, Knn(metric="euclidean"))
    assert found(all_stages(trial, places, more)) == [True, True, False, False] * 2 + [False]
    # A sweep that asks for fewer finds it all done: the others on disk stay in the tables.
    assert all(found(all_stages(trial, places)))

    # Another extraction: everything after it.
    train_and_extract(trial, places, shift=0.5)
    assert not any(found(all_stages(trial, places)))
    # The third backend's scores are of the old extraction now, and no table shows them.
    assert len(pq.read_table(directory.metrics)) == 2 * 2 * (8 + 9)


def test_overwrite(trial, places):
    train_and_extract(trial, places)
    all_stages(trial, places)
    assert not score(TrialFiles.load(trial, places), "fan", CKPT, Knn(), overwrite=True).reused
    assert not evaluate(TrialFiles.load(trial, places), "fan", CKPT, BACKENDS, overwrite=True).reused
    assert not table(TrialFiles.load(trial, places), [CKPT], BACKENDS, overwrite=True).reused
    assert all(found(all_stages(trial, places)))


def test_ground_truth_that_comes_later_repeats_only_what_reads_labels(trial, tmp_path):
    places = Places.of(tmp_path / "data", tmp_path / "results")
    tree = build_tree(places.data, DCASE, list(MACHINES), {"source": 6, "target": 2}, per_cell=4)
    format_dataset(places.data, DCASE)
    train_and_extract(trial, places)
    all_stages(trial, places)
    directory = store.trial_dir(places.results, trial)
    assert {r["value"] for r in read_csv(directory.evaluate(CKPT, "bandsaw"))} == {""}
    assert pq.read_table(directory.metrics)["value"].null_count == 2 * (8 + 9)
    official = pd.read_csv(directory.output(CKPT) / "official23-eval.csv")
    assert official[["bandsaw", "total"]].isna().all(axis=None)
    view = pd.read_csv(directory.score_view(CKPT, "bandsaw", "test"))
    assert view["is_anomaly"].isna().all()
    scores = directory.scores(CKPT, "bandsaw", backend_id(Knn())).read_bytes()

    write_list(tree)
    format_dataset(places.data, DCASE)
    # fan is a dev machine: nothing is new for it. bandsaw: scored, but evaluated again.
    assert found(all_stages(trial, places)) == [True, True, True, True, True, False, False]
    assert directory.scores(CKPT, "bandsaw", backend_id(Knn())).read_bytes() == scores
    official = pd.read_csv(directory.output(CKPT) / "official23-eval.csv")
    assert official[["bandsaw", "total"]].notna().all(axis=None)
    record = store.read_record(directory.machine(CKPT, "bandsaw"), "evaluate")
    assert record.extra["label_sources"]


def test_scores_do_not_depend_on_labels(trial, tmp_path):
    """The same audio with every label turned round gives the same bytes of scores."""
    contents = []
    for name, flip in (("a", False), ("b", True)):
        places = Places.of(tmp_path / name, tmp_path / f"results-{name}")
        tree = build_tree(places.data, DCASE, list(MACHINES), {"source": 6, "target": 2}, per_cell=4)
        path = write_list(tree)
        if flip:
            text = path.read_text()
            text = (
                text.replace("_anomaly_", "_x_").replace("_normal_", "_anomaly_").replace("_x_", "_normal_")
            )
            path.write_text(text)
        format_dataset(places.data, DCASE)
        train_and_extract(trial, places)
        all_stages(trial, places)
        directory = store.trial_dir(places.results, trial)
        scored = [directory.scores(CKPT, "bandsaw", backend_id(b)).read_bytes() for b in BACKENDS]
        contents.append((scored, directory.evaluate(CKPT, "bandsaw").read_text()))
    assert contents[0][0] == contents[1][0]
    assert contents[0][1] != contents[1][1]


def test_a_failed_machine_leaves_a_null_total(trial, places):
    train_and_extract(trial, places)
    score(TrialFiles.load(trial, places), "fan", CKPT, Knn())
    evaluate(TrialFiles.load(trial, places), "fan", CKPT, [Knn()])
    table(TrialFiles.load(trial, places), [CKPT], [Knn()])
    directory = store.trial_dir(places.results, trial)
    assert pd.read_csv(directory.output(CKPT) / "official23-dev.csv")["total"].notna().all()
    assert pd.read_csv(directory.output(CKPT) / "official23-eval.csv")["total"].isna().all()
    score(TrialFiles.load(trial, places), "bandsaw", CKPT, Knn())
    evaluate(TrialFiles.load(trial, places), "bandsaw", CKPT, [Knn()])
    assert not table(TrialFiles.load(trial, places), [CKPT], [Knn()]).reused
    assert pd.read_csv(directory.output(CKPT) / "official23-eval.csv")["total"].notna().all()


def test_embeddings_that_are_not_finite_are_an_error_and_leave_no_file(trial, places):
    train_and_extract(trial, places, nan=True)
    with pytest.raises(
        ValueError, match=r"dis_baseline-\w{8} dcase2023 seed0: fan: .* 1 of 16 test clips are not finite"
    ):
        score(TrialFiles.load(trial, places), "fan", CKPT, Knn())
    with pytest.raises(ValueError, match="NaN"):
        umap(TrialFiles.load(trial, places), "fan", CKPT, Umap())
    folder = store.trial_dir(places.results, trial).machine(CKPT, "fan")
    assert not list(folder.rglob("scores/*.parquet"))
    assert not list(folder.glob("umap/umap.*"))


def test_a_damaged_file_is_named(trial, places):
    train_and_extract(trial, places)
    path = store.trial_dir(places.results, trial).extract(CKPT, "fan", "test")
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(ValueError, match=r"test_extract\.parquet is damaged"):
        score(TrialFiles.load(trial, places), "fan", CKPT, Knn())


def test_umap(trial, places):
    train_and_extract(trial, places)
    outcome = umap(TrialFiles.load(trial, places), "fan", CKPT, Umap())
    folder = store.trial_dir(places.results, trial).umap(CKPT, "fan")
    first = pq.read_table(folder / "umap.parquet")
    assert first.column_names == ["clip", "x", "y"]
    assert len(first) == 8 + 16
    assert np.isfinite(first.to_pandas()[["x", "y"]].to_numpy()).all()
    picture = (folder / "umap.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert f"Title\0{trial.name} fan".encode() in picture
    assert b"synthetic" not in picture
    assert umap(TrialFiles.load(trial, places), "fan", CKPT, Umap()).reused
    again = umap(TrialFiles.load(trial, places), "fan", CKPT, Umap(), overwrite=True)
    assert again.record.digest == outcome.record.digest
    # Other options, another plot; scores do not wait for it or depend on it.
    assert not umap(
        TrialFiles.load(trial, places), "fan", CKPT, Umap(metric="euclidean", n_neighbors=3)
    ).reused
    assert not score(TrialFiles.load(trial, places), "fan", CKPT, Knn()).reused
    assert list(store.read_records(folder)) == ["umap"]


def test_another_process_does_not_compile_umap_again():
    """Numba's cache on disk serves every worker of a machine, once any process has filled it."""
    embed(np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32), Umap())
    script = (
        "import numpy as np\n"
        "from numba.core import event\n"
        "from asdray.config.backend import Umap\n"
        "from asdray.stages.umap import embed\n"
        "with event.install_recorder('numba:compile') as compiled:\n"
        "    embed(np.random.default_rng(1).normal(size=(40, 4)).astype(np.float32), Umap())\n"
        "fits = [e.data['dispatcher'].__name__ for _, e in compiled.buffer if e.is_start]\n"
        "print('optimize_layout_euclidean' in str(fits), 'smooth_knn_dist' in str(fits))\n"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["False", "False"]


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 16, 40])
def test_umap_of_few_or_equal_clips(n):
    x = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
    for points in (x, np.ones_like(x), np.zeros_like(x)):
        y = embed(points, Umap())
        assert y.shape == (n, 2)
        assert y.dtype == np.float32
        assert np.isfinite(y).all()


@pytest.mark.parametrize("stage", ["score", "evaluate", "umap", "table"])
def test_a_kill_before_the_record_leaves_nothing_that_passes_for_done(trial, places, monkeypatch, stage):
    """The outputs of two checkpoints can have equal sizes, so the old record must go before the first write."""
    train_and_extract(trial, places)
    all_stages(trial, places)
    umap(TrialFiles.load(trial, places), "fan", CKPT, Umap())
    run = {
        "score": lambda **kw: score(TrialFiles.load(trial, places), "fan", CKPT, BACKENDS[0], **kw),
        "evaluate": lambda **kw: evaluate(TrialFiles.load(trial, places), "fan", CKPT, BACKENDS, **kw),
        "umap": lambda **kw: umap(TrialFiles.load(trial, places), "fan", CKPT, Umap(), **kw),
        "table": lambda **kw: table(TrialFiles.load(trial, places), [CKPT], BACKENDS, **kw),
    }[stage]
    assert run().reused

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store, "finish", killed)
        run(overwrite=True)
    assert not run().reused, "it passed for done"
    assert run().reused


def ae_trial(machines) -> Trial:
    return Trial(DCASE, "ae_baseline", load_recipe("ae_baseline").system, 0, machines)


def test_sweeps_over_other_machines_share_a_trial_of_machine_models(places):
    """The table covers all machines that are done, so neither sweep blanks the other's rows."""
    small, large = ae_trial(("fan",)), ae_trial(MACHINES)
    for trial in (small, large):
        train_and_extract(trial, places)
        all_stages(trial, places)
    assert found(all_stages(small, places)) == [True] * 3
    assert found(all_stages(large, places)) == [True] * 5
    directory = store.trial_dir(places.results, small)
    assert set(pd.read_parquet(directory.metrics)["machine"]) == set(MACHINES)


def test_a_backend_that_failed_hides_no_other(trial, places):
    train_and_extract(trial, places)
    for machine in MACHINES:
        score(TrialFiles.load(trial, places), machine, CKPT, BACKENDS[0])
        evaluate(TrialFiles.load(trial, places), machine, CKPT, BACKENDS[:1])
    score(
        TrialFiles.load(trial, places), "bandsaw", CKPT, BACKENDS[1]
    )  # on fan it is supposed to have failed
    evaluate(TrialFiles.load(trial, places), "bandsaw", CKPT, BACKENDS)
    table(TrialFiles.load(trial, places), [CKPT], BACKENDS)
    frame = pd.read_parquet(store.trial_dir(places.results, trial).metrics)
    frame = frame[(frame["metric"] == "official") & (frame["section"] == -1)]
    assert set(frame[frame["backend"] == backend_id(BACKENDS[0])]["machine"]) == set(MACHINES)
    assert set(frame[frame["backend"] == backend_id(BACKENDS[1])]["machine"]) == {"bandsaw"}


def test_a_score_not_yet_evaluated_leaves_the_evaluation_that_is_there(trial, places):
    train_and_extract(trial, places)
    all_stages(trial, places, BACKENDS[:1])
    for machine in MACHINES:
        score(TrialFiles.load(trial, places), machine, CKPT, BACKENDS[1])
    evaluate(TrialFiles.load(trial, places), "fan", CKPT, BACKENDS)
    table(TrialFiles.load(trial, places), [CKPT], BACKENDS)
    frame = pd.read_parquet(store.trial_dir(places.results, trial).metrics)
    frame = frame[(frame["metric"] == "official") & (frame["section"] == -1)]
    assert set(frame[frame["backend"] == backend_id(BACKENDS[0])]["machine"]) == set(MACHINES)
    assert set(frame[frame["backend"] == backend_id(BACKENDS[1])]["machine"]) == {"fan"}
