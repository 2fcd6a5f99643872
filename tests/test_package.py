"""The wheel: built from a copy of the sources, installed beside the present packages, and used from elsewhere."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import asdray

ROOT = Path(__file__).parent.parent
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


def run(*command, cwd, code=0):
    """Output of a command that finds asdray where it is installed, not on ``PYTHONPATH``."""
    words = [str(word) for word in command]
    elsewhere = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, cwd=cwd, env=elsewhere, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    without = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "asdray", source / "asdray", symlinks=True, ignore=without)
    shutil.copytree(ROOT / "benchmarks" / "published", source / "benchmarks" / "published")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-c", BUILD, built, cwd=source)
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder of a Python with the wheel's asdray; all other packages are the present ones."""
    root = tmp_path_factory.mktemp("installed")
    venv.create(root, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(root)}))
    (site / "present.pth").write_text(f"{sysconfig.get_path('purelib')}\n")  # a .pth in there is not read
    run(sys.executable, "-m", "pip", "--python", root / "bin" / "python", "install", "--quiet", "--ignore-installed", "--no-deps",
        "--no-index", "--no-compile", wheel, cwd=root)  # fmt: skip
    return root


def test_the_wheel_has_every_file_of_the_package(wheel):
    folder = ROOT / "asdray"
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    files += [folder / "published" / path.name for path in (folder / "published").iterdir()]
    kept = {path.relative_to(ROOT).as_posix() for path in files if path.name != "README.md"}
    assert kept >= {"asdray/py.typed", "asdray/published/asdkit.csv", "asdray/recipes/dis_baseline.yaml"}
    assert kept - set(zipfile.ZipFile(wheel).namelist()) == set()


def test_one_version_stands_everywhere(wheel, installed, tmp_path):
    assert wheel.name == f"asdray-{asdray.__version__}-py3-none-any.whl"
    assert run(installed / "bin" / "asdray", "--version", cwd=tmp_path) == f"asdray {asdray.__version__}\n"
    metadata = zipfile.ZipFile(wheel).read(f"asdray-{asdray.__version__}.dist-info/METADATA").decode()
    assert re.search(rf"^Version: {re.escape(asdray.__version__)}$", metadata, re.MULTILINE)


def test_recipes_and_published_scores_are_there_elsewhere(installed, tmp_path):
    printed = run(installed / "bin" / "asdray", "recipes", cwd=tmp_path)
    assert "dis_baseline" in printed
    assert "ASDKit raw_spec" in printed
    where = run(installed / "bin" / "python", "-c", "import asdray; print(asdray.__file__)", cwd=tmp_path)
    assert where.startswith(str(installed))
