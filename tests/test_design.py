"""The rules of CONTRIBUTING.md that a test can keep: imports, sizes, file names, the tree of modules."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import asdray
from asdray.config.expand import load_sweep

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "asdray").rglob("*.py"))

# A package may import from packages with a smaller number, and from itself.
LEVEL = {
    "dcase.years": 0,
    "regular": 0,
    "printable": 0,
    "limits": 0,
    "temporary": 0.2,
    "home": 0.5,
    "source": 0.5,
    "terminal": 1,
    "config": 1,
    "recipes": 1,
    "provenance": 1,
    "allocator": 1,
    "full_disk": 0,
    "file_locks": 1,
    "fitted_table": 1,
    "aside": 1.5,
    "links": 1,
    "notes": 1,
    "record": 1,
    "store": 2,
    "trial_folders": 2.2,
    "damage": 2.5,
    "drawing": 2.5,
    "addresses": 2.5,
    "plugin_results": 3,
    "dcase": 3,
    "evaluation": 4,
    "audio": 4,
    "doctor": 5,
    "frontends": 5,
    "backends": 5,
    "results": 5,
    "points": 5.5,
    "stages": 6,
    "report": 6.5,
    "sweep": 7,
    "cli": 8,
    "__main__": 9,
    "__init__": 9,
}


def name_of(path):
    parts = list(path.relative_to(ROOT / "asdray").with_suffix("").parts)
    return ".".join(p for p in parts if p != "__init__") or "__init__"


def package_of(module):
    if module.startswith("dcase.years"):
        return "dcase.years"
    return module.split(".")[0]


def imports_of(path):
    """Pairs (module, True for an import under TYPE_CHECKING) of a file, imports inside functions included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING")
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in typing_only) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from ((f"{node.module}.{alias.name}", id(node) in typing_only) for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_one_way(path):
    mine = package_of(name_of(path))
    for module, typing_only in imports_of(path):
        if module.startswith("asdray.") and not typing_only:
            theirs = package_of(module.removeprefix("asdray."))
            if theirs in LEVEL:  # else a name in asdray/__init__, such as the version
                exempt = mine == "sweep" and name_of(path) == "sweep.__main__" and theirs == "cli"
                assert exempt or mine == theirs or LEVEL[theirs] < LEVEL[mine], f"{mine} imports {module}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_sweep_imports_ray(path):
    names = {module.split(".")[0] for module, _ in imports_of(path)}
    if "ray" in names:
        assert package_of(name_of(path)) == "sweep"


def test_no_imports_go_in_a_circle():
    names = {name_of(path) for path in MODULES}
    graph = {}
    for path in MODULES:
        imported = {m.removeprefix("asdray.") for m, typing_only in imports_of(path) if not typing_only}
        modules = {m if m in names else m.rpartition(".")[0] for m in imported} & names
        graph[name_of(path)] = modules - {name_of(path)}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError with the circle


RESULT_FILES = re.compile(
    r"""(^|/)(
        \.done.* | done\.json | trial\.json | metrics\.(parquet|csv) | train\.log
        | (train_|test_|\*)?_?(extract\.parquet|score\.csv|evaluate\.csv) | clips\.parquet | dataset\.json
        | sweep\.yaml | trials\.parquet | events\.jsonl | status\.json | study\.journal(\.sha256)?
        | selection\.csv | leaderboard[-.]\S* | beside_published\.\S*
    )$""",
    re.VERBOSE,
)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_store_spells_the_files_of_a_result(path):
    """In a path; messages may name a file."""
    texts = {
        node.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    spelled = {text for text in texts if RESULT_FILES.search(text) and " " not in text}
    if name_of(path) != "store":
        assert not spelled


def test_only_home_expands_tildes():
    """Elsewhere a path such as ``~nobody/data`` would be a traceback."""
    calls = {
        path
        for path in MODULES
        if re.search(r"\bexpanduser\(|\bPath\.home\(", path.read_text(encoding="utf-8"))
    }
    assert set(map(name_of, calls)) == {"home"}


HEAVY = ("torch", "ray", "lightning", "umap", "sklearn", "pandas", "scipy", "matplotlib", "pyarrow", "numpy")


@pytest.mark.parametrize("command", ["--help", "recipes", "schema"])
def test_commands_that_only_print_import_nothing_heavy(command):
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('loaded:', sorted({set(HEAVY)} & set(sys.modules))))\n"
        "from asdray.cli import main; main(sys.argv[1:])"
    )
    run = subprocess.run([sys.executable, "-c", code, command], capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr
    assert run.stdout.endswith("loaded: []\n")


def test_modules_are_short():
    long = {name_of(p): n for p in MODULES if (n := len(p.read_text().splitlines())) > 600}
    assert not long


def test_those_who_contribute_are_led_to_files_that_exist():
    """A path in full, and in brackets after a folder a name of the folder's; NAME and 20XX are to be made."""
    folder, missing = "", []
    text = (ROOT / "CONTRIBUTING.md").read_text() + (ROOT / "docs" / "adding.md").read_text()
    for word in re.findall(r"`([\w/.]+(?:\.py|/))`", text):
        folder = word if word.endswith("/") else folder
        if not re.search("NAME|20XX", word) and not any(
            (at / word).exists() for at in (ROOT, ROOT / "asdray", ROOT / folder)
        ):
            missing.append(word)
    assert missing == []


def modules_of_tree():
    """Module -> description, of the tree in docs/architecture.md: two spaces per level, ``name/`` opens a folder."""
    tree = re.search(
        r"^asdray/\n(.*?)^\S", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE | re.DOTALL
    )
    folders, described = [], {}
    for line in tree[1].splitlines():
        indent, name, text = re.fullmatch(r"( *)(\S+) *(.*)", line).groups()
        folders = folders[: len(indent) // 2 - 1]
        if name.endswith("/"):
            folders.append(name.removesuffix("/"))
        else:
            described[".".join([*folders, name])] = text
    return described


def test_the_tree_describes_every_module_and_no_other():
    described = modules_of_tree()
    assert all(described.values())
    modules = {name_of(path) for path in MODULES if not path.stem.startswith("__")}
    assert modules - set(described) == set(), "modules without a line in the tree of docs/architecture.md"
    assert not set(described) - modules, "a line in the tree of docs/architecture.md without a module"


@pytest.mark.parametrize(
    "path", [*(ROOT / "sweeps").glob("*.yaml"), *(ROOT / "benchmarks").glob("*.yaml")], ids=lambda p: p.stem
)
def test_every_sweep_file_loads_and_says_what_it_asks(path):
    assert load_sweep(path).name == path.stem
    assert path.read_text(encoding="utf-8").startswith("# ")


def test_every_version_is_that_of_the_package():
    assert f"\nversion: {asdray.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {asdray.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_lock_holds_names_and_versions_only():
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!-]+( ; .*)?", line), line
