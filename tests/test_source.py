"""Results that another source of asdray made are told before they are reused, and never mixed silently."""

import ast
import json
import zipfile

import pytest
import yaml
from finished import finish
from rich.console import Console
from tiny import DCASE, DIS, MACHINES, build_year

from asdray import provenance, source, store
from asdray.config.trial import NUMERICS
from asdray.stages import made_by
from asdray.store import Places
from asdray.sweep.outputs import write_results
from asdray.sweep.plan import load
from asdray.sweep.status import plan_lines, status
from asdray.sweep.summaries import made, write_summaries

LOSSES = "frontends/losses.py"


@pytest.fixture
def edit(monkeypatch):
    """Goes on as another asdray, whose modules hold other text."""

    def edit(commit, **texts):
        files = {**source.present().files, **{name: text.encode() for name, text in texts.items()}}
        edited = source.Source(files)
        versions = {**provenance.versions(), "source": edited.id, "commit": commit}
        monkeypatch.setattr(source, "present", lambda: edited)
        monkeypatch.setattr(provenance, "versions", lambda: versions)

    edit("a" * 40)
    return edit


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    build_year(root)
    return root


@pytest.fixture
def world(data, tmp_path, edit):
    return World(data, tmp_path)


class World:
    """A sweep of three trials of one system, of which two are finished."""

    def __init__(self, data, folder):
        self.places = Places.of(data, folder / "results")
        recipe = {"about": "dis", **DIS.model_dump(mode="json")}
        (folder / "dis.yaml").write_text(yaml.safe_dump(recipe))
        value = {
            "name": "s", "recipes": {"dis.yaml": {}}, "dcase": DCASE, "seeds": [0, 1, 2],
            "machines": {DCASE: list(MACHINES)}, "umap": {}, "backends": ["knn"],
        }  # fmt: skip
        (folder / "s.yaml").write_text(yaml.safe_dump(value))
        self.sweep, self.jobs = load(folder / "s.yaml", {}, self.places)
        made_by.keep_source(self.places.results)
        for job in self.jobs[:2]:
            self.finish(job)

    def finish(self, job):
        finish(job, self.sweep, self.places)

    def told(self):
        """The lines of ``--dry-run`` and of ``status`` on other sources: the same ones."""
        planned = [line for line in plan_lines(self.sweep, self.jobs, self.places) if " made by " in line]
        console = Console(width=1000)
        with console.capture() as capture:
            console.print(status(self.sweep, self.jobs, self.places))
        assert [line for line in capture.get().splitlines() if " made by " in line] == planned
        return planned


def text_of(name):
    return source.present().files[name].decode()


def edited(name):
    """The text of a module with other code."""
    return text_of(name) + "\nEDITED = 1\n"


def test_an_edited_module_is_told_once_with_trials_commit_and_stages(world, edit):
    assert world.told() == []
    edit("b" * 40, **{LOSSES: edited(LOSSES)})
    (line,) = world.told()
    assert line.startswith(
        f"2 trials were made by commit aaaaaaaa, which differs in {LOSSES} (train, extract): "
    )
    assert "--fresh" in line
    assert "`numerics`" in line
    assert plan_lines(world.sweep, world.jobs, world.places)[0].endswith(": done"), "reused all the same"
    write_summaries(world.jobs, world.sweep, world.places)
    assert world.told() == [line]
    for job in world.jobs[:2]:
        assert {one.by for one in made(job, world.sweep, world.places)} == {"commit aaaaaaaa"}


def test_a_summary_that_lacks_the_makers_says_nothing(world, edit):
    write_summaries(world.jobs, world.sweep, world.places)
    for job in world.jobs[:2]:
        path = store.trial_dir(world.places.results, job.trial).root / "done.json"
        content = json.loads(path.read_text())
        del content["summary"]["made"]
        path.write_text(json.dumps(content))
    edit("b" * 40, **{LOSSES: edited(LOSSES)})
    assert world.told() == []


def test_lines_are_grouped_by_commit_and_modules(world, edit):
    edit("b" * 40 + "+dirty", **{LOSSES: edited(LOSSES)})
    made_by.keep_source(world.places.results)
    world.finish(world.jobs[1])
    edit("c" * 40, **{LOSSES: edited(LOSSES), "backends/knn.py": edited("backends/knn.py")})
    lines = world.told()
    assert {line.partition(":")[0] for line in lines} == {
        f"1 trial was made by commit aaaaaaaa, which differs in {LOSSES} (train, extract)",
        "1 trial was made by commit aaaaaaaa, which differs in backends/knn.py (score)",
        f"1 trial was made by commit bbbbbbbb with edits, which differs in {LOSSES} (train, extract)",
        "1 trial was made by commit bbbbbbbb with edits, which differs in backends/knn.py (score)",
    }


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + "\n# a comment\n",
        lambda text: text.replace('"""', '"""Other words. ', 1),
        lambda text: text.replace("\n\n\n", "\n\n\n\n"),
    ],
)
def test_comments_and_docstrings_do_not_count(world, edit, change):
    before = text_of(LOSSES)
    assert change(before) != before
    edit("b" * 40, **{LOSSES: change(before)})
    assert world.told() == []


def test_modules_that_a_stage_does_not_import_do_not_count(world, edit):
    edit("b" * 40, **{"stages/submit.py": edited("stages/submit.py")})
    assert world.told() == []
    edit("c" * 40, **{"evaluation/metrics.py": edited("evaluation/metrics.py")})
    (line,) = world.told()
    assert "evaluation/metrics.py (evaluate, table)" in line


def test_records_of_older_releases_say_nothing(world, edit):
    for path in world.places.results.glob("trials/**/done.json"):
        content = json.loads(path.read_text())
        for record in content["records"].values():
            del record["versions"]["source"]
        path.write_text(json.dumps(content))
    edit("b" * 40, **{LOSSES: edited(LOSSES)})
    assert world.told() == []


@pytest.mark.parametrize("harm", ["lost", "damaged", "of another source", "no zip"])
def test_a_source_that_cannot_be_read_is_told_as_unknown(world, edit, harm):
    path = store.source_archive(world.places.results, source.present_id())
    if harm == "lost":
        path.unlink()
    elif harm == "damaged":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif harm == "of another source":
        path.write_bytes(source.Source({LOSSES: b"x = 1\n"}).archive())
    else:
        path.write_text("words")
    made_by._archived.cache_clear()
    made_by._differing.cache_clear()
    edit("b" * 40, **{LOSSES: edited(LOSSES)})
    (line,) = world.told()
    assert "commit aaaaaaaa, which differs in modules that nobody can name" in line


def test_names_in_records_of_others_are_not_believed(world, edit, tmp_path):
    assert made_by.Made.of("train", {"source": "../../../../etc/passwd"}) is None
    strange = made_by.Made.of("train", {"source": "0" * 16, "commit": "\x1b[31m", "asdray": "=cmd()"})
    assert strange.by == "asdray of another version"
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("backends/knn.py", b"#" * (source.MAX_BYTES + 1))
    assert source.read_archive(tmp_path / "a.zip", "0" * 16) is None
    nested = source.Source({LOSSES: b"x = " + b"(" * 5000 + b")" * 5000})
    assert source.differing(source.Source({}), nested, "train") == ()
    of_train = source.Source({**source.present().files, LOSSES: nested.files[LOSSES]})
    assert source.differing(source.present(), of_train, "train") == (LOSSES,)


def test_the_archive_holds_the_code_once_and_leaves_nothing_behind(world):
    folder = world.places.results / "sources"
    path = store.source_archive(world.places.results, source.present_id())
    left = folder / f".tmp-1-1-{path.name}"
    left.touch()
    before = path.read_bytes()
    path.unlink()
    made_by.keep_source(world.places.results)
    assert sorted(p.name for p in folder.iterdir()) == [".lease", path.name]
    assert path.read_bytes() == before
    with zipfile.ZipFile(path) as archive:
        assert archive.read(LOSSES).decode() == text_of(LOSSES)


def test_imports_are_those_of_python():
    """Read from the text for speed, held against the syntax tree."""
    files = source.present().files
    for name, text in files.items():
        tree = ast.parse(text)
        typing = {
            id(node)
            for block in ast.walk(tree)
            if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
            for node in ast.walk(block)
        }
        expected = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom | ast.Import) and id(node) not in typing:
                paths = [alias.name for alias in node.names]
                if isinstance(node, ast.ImportFrom):
                    paths = [node.module, *(f"{node.module}.{one}" for one in paths)]
                expected |= {one.removeprefix("asdray.") for one in paths if one.startswith("asdray.")}
        wanted = {f"{one.replace('.', '/')}{end}" for one in expected for end in (".py", "/__init__.py")}
        assert source.present()._imports[name] & files.keys() == wanted & files.keys(), name


def test_every_stage_depends_on_its_own_code():
    assert set(source.STAGES) == set(NUMERICS)
    of = {stage: source.present().modules(stage) for stage in source.STAGES}
    assert {"frontends/losses.py", "stages/fit.py", "audio/cache.py", "config/losses.py"} <= of["train"]
    assert {"frontends/encoders/beats.py", "frontends/checkpoint.py"} <= of["extract"]
    assert {"backends/knn.py"} <= of["score"]
    assert {"evaluation/metrics.py"} <= of["evaluate"] & of["table"]
    assert "backends/knn.py" not in of["train"] | of["evaluate"]
    assert not any(name.startswith("frontends/") for name in of["score"])


def test_a_board_names_the_rows_that_mix_sources(asdray, data, tmp_path, edit):
    """Real stages by hand: reused ones are told, and the tables of both seeds stay as they were."""
    results, spec = tmp_path / "results", tmp_path / "s.yaml"
    value = {
        "name": "s", "recipes": {"raw_spec": {"set": {"audio.duration": 1.0}}}, "dcase": DCASE, "seeds": [0],
        "machines": {DCASE: list(MACHINES)}, "umap": False, "backends": ["knn"],
    }  # fmt: skip
    spec.write_text(yaml.safe_dump(value))
    places = Places.of(data, results)
    options = [
        "--set",
        "audio.duration=1.0",
        "--data",
        data,
        "--results",
        results,
        "--no-umap",
        "--backend",
        "knn",
    ]
    machines = ",".join(MACHINES)

    def run():
        code, out, error = asdray(
            "run", "raw_spec", DCASE, "--machines", machines, *options, "--device", "cpu"
        )
        assert not code, error
        return out

    def board():
        sweep, jobs = load(spec, {}, places)
        return write_results(sweep, jobs, places)

    run()
    first = board()
    assert not any("Mixed" in note for note in first.notes)
    edit("b" * 40, **{"backends/knn.py": edited("backends/knn.py")})
    lines = run().splitlines()
    (knn, *_) = [line for line in lines if line.startswith("score fan knn")]
    assert (
        "already done by commit aaaaaaaa, which differs in backends/knn.py: `asdray score ... --over" in knn
    )
    assert not any("which differs" in line for line in lines if not line.startswith("score"))
    assert not any("Mixed" in note for note in board().notes), "all of one source"
    (folder,) = results.glob("trials/*/*/seed*")
    code, _, error = asdray("score", folder, "--machine", "fan", "--data", data, "--overwrite")
    assert not code, error
    run()
    mixed = board()
    (note,) = [note for note in mixed.notes if "Mixed" in note]
    assert note.startswith("Mixed sources of asdray: raw_spec-")
    assert (
        "results by commit aaaaaaaa, which differs from that of the other results in backends/knn.py." in note
    )
    assert mixed.frame.equals(first.frame)
