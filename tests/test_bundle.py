"""Bundles: a sweep in one file, other people's rows beside ours, and files that must not be believed."""

import hashlib
import io
import json
import re
import stat
import zipfile

import pandas as pd
import pytest
from test_scoring_stages import CKPT, all_stages, train_and_extract
from trees import build_tree, write_list

from asdray import store
from asdray.config.backend import Knn
from asdray.config.files import validate
from asdray.config.sweep import Sweep
from asdray.dcase.format import format_dataset
from asdray.evaluation import bundle
from asdray.evaluation.recomputed import recompute
from asdray.stages.steps import Request, TrialFiles
from asdray.stages.trial_json import write_trial
from asdray.store import Places, SweepDir
from asdray.sweep import outputs
from asdray.sweep.bundle import rows_beside, write_bundle
from asdray.sweep.plan import plan

DCASE = "dcase2023"
SPEC = {
    "name": "grid",
    "recipes": {
        "dis_baseline": {"space": {"frontend.loss": [{"name": "adacos"}, {"name": "arcface", "margin": 0.5}]}},
        "ae_baseline": None,
    },
    "dcase": [DCASE],
    "seeds": [0, 1],
    "machines": {DCASE: ["fan", "bandsaw"]},
    "backends": ["knn", {"name": "knn", "n_neighbors": 2}],
    "umap": False,
}  # fmt: skip


def finished_sweep(data, results, shift, **changes):
    """A sweep whose embeddings are random, with all later stages; the last trial has not ended."""
    places = Places.of(data, results)
    sweep = validate(Sweep, {**SPEC, **changes}, "test")
    jobs = plan(sweep, places, "test")
    for job in jobs[:-1]:
        write_trial(TrialFiles(job.trial, places, job.dataset), Request((CKPT,), job.backends))
        train_and_extract(job.trial, places, shift=shift)
        all_stages(job.trial, places, (Knn(), Knn(n_neighbors=2)))
    outputs.write_spec(sweep, store.sweep_dir(places.results, sweep.name))
    return sweep, jobs, places


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Our sweep, and the bundle of another group's over the same data."""
    data = tmp_path_factory.mktemp("data")
    write_list(build_tree(data, DCASE, ["fan", "bandsaw"], {"source": 6, "target": 2}, per_cell=4))
    format_dataset(data, DCASE)
    ours = finished_sweep(data, tmp_path_factory.mktemp("ours"), 0.0)
    theirs = finished_sweep(data, tmp_path_factory.mktemp("theirs"), 0.3)
    path = write_bundle(*theirs, tmp_path_factory.mktemp("sent") / "theirs.zip")
    return ours, theirs, path


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


MEMBERS = {
    "leaderboard": "leaderboard.csv",
    "labels": "labels/",
    "scores": "scores/.*/dis_baseline.*/seed0/last.csv",
}


def changed(source, target, honest=True, **files):
    """A copy of a bundle with other members; an honest one has their hashes in its header."""
    content = members(source)
    header = json.loads(content.pop(bundle.HEADER))
    for name, change in files.items():
        at = next(member for member in content if re.search(MEMBERS[name], member))
        content[at] = change(content[at])
        if honest:
            header["files"][at] = {
                "size": len(content[at]),
                "sha256": hashlib.sha256(content[at]).hexdigest(),
            }
    with zipfile.ZipFile(target, "w") as archive:
        for name, text in {bundle.HEADER: json.dumps(header), **content}.items():
            archive.writestr(name, text)
    return target


def with_header(source, target, change):
    content = members(source)
    header = json.loads(content.pop(bundle.HEADER))
    change(header)
    with zipfile.ZipFile(target, "w") as archive:
        for name, text in {bundle.HEADER: json.dumps(header), **content}.items():
            archive.writestr(name, text)
    return target


# --------------------------------------------------------------------------------------------------- honest


def test_a_bundle_holds_results_and_gives_their_tables_again(world):
    _, (sweep, jobs, places), path = world
    folder = SweepDir(store.sweep_dir(places.results, sweep.name))
    names = set(members(path))
    assert {"bundle.json", "sweep.yaml", "leaderboard.csv", f"labels/{DCASE}.csv"} <= names
    assert sum(name.startswith("scores/") for name in names) == len(jobs) - 1
    assert {name.rpartition(".")[2] for name in names} == {"json", "yaml", "csv", "md"}
    theirs = recompute(bundle.read(path))
    assert theirs.refused == ()
    for (dcase, subset), table in theirs.tables.items():
        known = pd.read_csv(folder.tables / f"official{dcase[-2:]}-{subset}.csv")
        pd.testing.assert_frame_equal(
            table[list(known.columns[:-1])].fillna({"options": ""}), known.drop(columns="dataset").fillna({"options": ""}), check_dtype=False
        )  # fmt: skip
    made = theirs.bundle.header.trials[0].made
    assert made["seconds"]["score"] >= 0
    assert made["versions"]["python"]
    assert (
        members(write_bundle(sweep, jobs, places))[f"labels/{DCASE}.csv"]
        == members(path)[f"labels/{DCASE}.csv"]
    )


def test_their_rows_stand_beside_ours_marked_and_without_a_rank(world, asdray):
    (sweep, jobs, places), (_, _, other), path = world
    asked = ["report", "grid", "--data", places.data, "--results", places.results]
    outputs.write_results(sweep, jobs, places)
    folder = SweepDir(store.sweep_dir(places.results, "grid"))
    before = folder.leaderboard().read_bytes()
    code, out, error = asdray(*asked, "--with", path)
    assert code == 0, error
    assert folder.leaderboard().read_bytes() == before
    theirs = pd.read_csv(SweepDir(store.sweep_dir(other.results, "grid")).leaderboard())
    lines = [line for line in out.splitlines() if re.search(r"\btheirs \[\d", line)]
    assert len(lines) == len(theirs)
    for row in theirs.to_dict("records"):
        score = row["dcase2023-eval_mean"]
        assert score != score or any(f"{100 * score:.2f}" in line for line in lines)
    assert f"theirs.zip (sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]})" in out
    assert "another group" in out
    page = folder.report.read_text()
    assert page.count('data-origin="theirs"') == len(theirs)


def test_a_bundle_is_shown_by_itself(world, asdray):
    _, (_, _, other), path = world
    code, out, error = asdray("report", path)
    assert code == 0, error
    theirs = pd.read_csv(SweepDir(store.sweep_dir(other.results, "grid")).leaderboard())
    for score in theirs["dcase2023-dev_mean"].dropna():
        assert f"{100 * score:.2f}" in out
    assert "recomputed from the scores" in out


def test_the_command_packs(world, asdray, tmp_path):
    _, (_, _, places), path = world
    asked = ["--data", places.data, "--results", places.results]
    code, out, error = asdray("bundle", "grid", *asked, "--out", tmp_path / "b.zip")
    assert code == 0, error
    assert str(tmp_path / "b.zip") in out
    assert members(tmp_path / "b.zip").keys() == members(path).keys()
    code, _, error = asdray("bundle", "gird", *asked)
    assert code == 2
    folder = tmp_path / "mine.pdf"
    folder.mkdir()
    for command in (
        ["bundle", "grid", *asked],
        ["compare", "a", "b", *asked],
        ["plot", "leaderboard", "grid"],
    ):
        assert asdray(*command, "--out", folder) == (
            2,
            "",
            f"error: --out {folder} is a folder: name the file to write\n",
        )
    assert folder.is_dir(), "a folder of the user is not moved aside for a file"


# ------------------------------------------------------------------------------------------- what is refused


def refused(path, world):
    sweep, jobs, places = world[0]
    rows, lines = rows_beside([path], sweep, jobs, places)
    return rows, "\n".join(lines)


def test_a_number_that_the_scores_do_not_give_refuses_its_row(world, tmp_path):
    def better(content):
        frame = pd.read_csv(io.BytesIO(content))
        frame.loc[0, "dcase2023-eval_mean"] = 0.99
        return frame.to_csv(index=False).encode()

    path = changed(world[2], tmp_path / "a.zip", leaderboard=better)
    rows, lines = refused(path, world)
    every, none = refused(world[2], world)
    assert (len(rows), none) == (len(every) - 1, "")
    assert re.search(
        r"a\.zip: refused: \S+ .*its leaderboard says dcase2023-eval_mean = 0\.99, its scores give 0\.\d+",
        lines,
    )


def test_other_scores_refuse_their_rows(world, tmp_path):
    def shuffled(content):
        first, *rest = content.splitlines(keepends=True)
        return b"".join([first, *reversed(rest)])

    path = changed(world[2], tmp_path / "a.zip", scores=shuffled)
    rows, lines = refused(path, world)
    assert "its scores give" in lines
    assert len(rows) < len(refused(world[2], world)[0])


def test_other_labels_or_machines_are_told_and_not_compared(world, tmp_path):
    def flipped(content):
        return (
            content.replace(b",True\n", b",X\n")
            .replace(b",False\n", b",True\n")
            .replace(b",X\n", b",False\n")
        )

    path = changed(world[2], tmp_path / "a.zip", labels=flipped)
    rows, lines = refused(path, world)
    assert not [row for row in rows if row.get("dcase2023-dev_n", 0)]
    assert "refused" in lines or "of its labels differ from ours" in lines
    places = world[0][2]
    less = validate(Sweep, {**SPEC, "machines": {DCASE: ["fan"]}}, "test")
    rows, lines = rows_beside([world[2]], less, plan(less, places, "test"), places)
    assert "dcase2023-eval is not shown: it is over bandsaw, ours over none" in "\n".join(lines)
    assert all("dcase2023-eval_mean" not in row for row in rows)


def test_synthetic_rows_never_stand_beside_official_ones(world, tmp_path):
    path = with_header(world[2], tmp_path / "a.zip", lambda header: header.update(dataset="synthetic"))
    with pytest.raises(
        ValueError, match=r"is of synthetic data, and no row of it stands beside those of official"
    ):
        refused(path, world)


def test_options_of_another_system_are_refused(world, tmp_path):
    def other(header):
        header["trials"][0]["canonical"]["train"]["epochs"] = 999

    with pytest.raises(ValueError, match=r"the options of dis_baseline-\w+ are those of another system"):
        bundle.read(with_header(world[2], tmp_path / "a.zip", other))


HEADERS = {
    "other_form": (lambda h: h.update(trials="x"), "of another form .trials"),
    "unknown_key": (lambda h: h.update(code="import os"), "of another form .code"),
    "outside": (lambda h: h["trials"][0].update(system="../../etc"), "of another form .trials.0.system"),
    "machine": (lambda h: h["machines"].update({DCASE: ["fan", "fam"]}), "no machine 'fam'"),
    "no_machine": (lambda h: h.update(machines={}, trials=[]), "of another form .machines"),
    "year": (lambda h: h["machines"].update(dcase2099=["fan"]), "dcase2099"),
    "twice": (lambda h: h["trials"].append(h["trials"][0]), "is there twice"),
    "backend": (lambda h: h["backends"].popitem(), "that the sweep does not have"),
    "nameless": (lambda h: next(iter(h["backends"].values())).pop("name"), "has no name"),
    "machine_twice": (
        lambda h: h["machines"].update({DCASE: ["fan", "fan"]}),
        "names a machine, checkpoint or backend twice",
    ),
    "not_listed": (lambda h: h["files"].popitem(), "its list of members and the members differ"),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_of_another_form_are_refused(kind, world, tmp_path):
    change, message = HEADERS[kind]
    with pytest.raises(ValueError, match=rf"a\.zip: .*{message}"):
        bundle.read(with_header(world[2], tmp_path / "a.zip", change))


NO_ROWS = {
    "trials": lambda h: h.update(trials=[]),
    "checkpoints": lambda h: h.update(checkpoints=[]),
    "backends": lambda h: [trial.update(backends=[]) for trial in h["trials"]],
    "confirmed": lambda h: [trial.update(part="search") for trial in h["trials"]],
}


@pytest.mark.parametrize("kind", NO_ROWS)
def test_a_bundle_without_rows_shows_none(kind, world, tmp_path, asdray):
    path = with_header(world[2], tmp_path / "a.zip", NO_ROWS[kind])
    code, out, error = asdray("report", path)
    assert (code, error) == (0, "")
    assert "recomputed from the scores" in out
    rows, lines = refused(path, world)
    assert rows == []
    assert re.search(r"not shown: \d+ rows of its leaderboard", lines)


def test_a_backend_without_an_option_is_no_fault_of_ours(world, tmp_path):
    def short(header):
        header["backends"][next(iter(header["backends"]))] = {"name": "mem_mixup"}

    theirs = recompute(bundle.read(with_header(world[2], tmp_path / "a.zip", short)))
    assert "mem_mixup" in set(theirs.tables[DCASE, "dev"]["backend"])


def test_an_unknown_column_that_ranks_is_named_with_the_file(world, tmp_path):
    path = with_header(world[2], tmp_path / "a.zip", lambda header: header.update(rank_by="dcase2023-evil"))
    with pytest.raises(ValueError, match=r"^a\.zip: cannot rank by 'dcase2023-evil'"):
        recompute(bundle.read(path))


SCORES = {
    "nan": (lambda c: re.sub(rb"\n[^,\n]+", b"\nnan", c, count=1), "'nan' is no score"),
    "text": (lambda c: re.sub(rb"\n[^,\n]+", b"\n=cmd()", c, count=1), "'=cmd..' is no score"),
    "short": (lambda c: c[: c.rindex(b"\n", 0, -1) + 1], "has the scores of"),
    "hole": (lambda c: re.sub(rb"\n[^,\n]+,", b"\n,", c, count=1), r"has scored \d+ of \d+ clips"),
    "fields": (lambda c: c + b"1,2,3,4\n", "has 4 fields, the first line 2"),
    "bytes": (lambda c: c + b"\xff\n", "scores/.*csv: "),
    "empty": (lambda c: b"", r"^a\.zip: scores/.*: its first line is not the names"),
    "endless": (
        lambda c: c.splitlines()[0] + b"\n" + b"1,1\n" * (bundle.MOST_LINES + 1),
        "has more than 200,000 lines",
    ),
}


@pytest.mark.parametrize("kind", SCORES)
def test_scores_of_another_form_are_refused(kind, world, tmp_path):
    change, message = SCORES[kind]
    path = changed(world[2], tmp_path / "a.zip", scores=change)
    with pytest.raises(ValueError, match=message):
        recompute(bundle.read(path))


def test_a_changed_member_is_named(world, tmp_path):
    path = changed(world[2], tmp_path / "a.zip", honest=False, scores=lambda content: content + b" ")
    with pytest.raises(ValueError, match=r"a\.zip: scores/.*/last\.csv is not what was packed"):
        bundle.read(path)


def link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("../outside.csv", "x", "which no bundle has"),
        ("/etc/passwd", "x", "which no bundle has"),
        ("tables/../../x.csv", "x", "which no bundle has"),
        ("tables\\..\\x.csv", "x", "which no bundle has"),
        ("my_method.py", "import os", "which no bundle has"),
        (link("tables/x.csv"), "/etc/passwd", "encrypted, a link, or has too many bytes"),
        ("sweep.yaml", "name: x", "the member 'sweep.yaml' twice"),
        ("tables/bomb.csv", b"0" * (bundle.LARGEST_FILE + 1), "encrypted, a link, or has too many bytes"),
    ],
)
def test_hostile_members_are_refused(name, content, message, world, tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(world[2].read_bytes())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(name, content)
    with pytest.raises(ValueError, match=rf"a\.zip: .*{message}"):
        bundle.read(path)
    assert [p.name for p in tmp_path.rglob("*")] == ["a.zip"]


def test_members_of_another_compression_are_refused(world, tmp_path):
    path = tmp_path / "a.zip"
    for kind in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        path.write_bytes(world[2].read_bytes())
        with zipfile.ZipFile(path, "a", kind) as archive:
            archive.writestr("tables/x.csv", "x" * 1000)
        with pytest.raises(ValueError, match=r"'tables/x\.csv' is compressed in another way"):
            bundle.read(path)


def test_a_bomb_of_many_members_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for i in range(5):
            archive.writestr(f"tables/{i}.csv", b"0" * 2**20)
    monkeypatch.setattr(bundle, "LARGEST", 2**22)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *args: pytest.fail("nothing is read"))
    with pytest.raises(ValueError, match=r"would have 5,242,880 bytes unpacked"):
        bundle.read(path)


def test_what_is_no_bundle_says_so(world, tmp_path, asdray):
    content = world[2].read_bytes()
    (tmp_path / "text.zip").write_text("no zip")
    (tmp_path / "half.zip").write_bytes(content[: len(content) // 2])
    broken = bytearray(content)
    broken[len(content) // 3] ^= 255
    (tmp_path / "bit.zip").write_bytes(broken)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("leaderboard.csv", "x")
    with zipfile.ZipFile(tmp_path / "deep.zip", "w") as archive:
        archive.writestr(bundle.HEADER, "[" * 100_000)
    for path in sorted(tmp_path.glob("*.zip")):
        code, out, error = asdray("report", path)
        assert (code, out) == (2, ""), path
        assert error.startswith(f"error: {path}: "), error
        assert error.count("\n") == 1
    code, _, error = asdray("report", tmp_path / "absent.zip")
    assert (code, "cannot be read (No such file" in error) == (2, True)
