"""What others put in place: pipes and devices where files should be, and text that a table's reader obeys."""

import os
import signal
import socket

import pandas as pd
import pytest

from asdray import regular, store
from asdray.audio.cache import read_clip
from asdray.config.files import read_yaml
from asdray.config.plugin import read_plugin
from asdray.dcase.fetch import digest_of
from asdray.dcase.truth_files import read_sources
from asdray.dcase.unpack import unpack
from asdray.dcase.wav import read_header
from asdray.evaluation import leaderboard
from asdray.evaluation.tables import write_csv
from asdray.frontends import checkpoint, precomputed
from asdray.frontends.encoders import weights


@pytest.fixture(autouse=True)
def _no_hang():
    """A command that waits for a pipe would wait for ever."""

    def fail(number, frame):
        raise AssertionError("still waiting after 10 s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def clip(path):
    if fault := read_clip(path, None):
        raise ValueError(fault)


READERS = {
    "recipe.yaml": read_yaml,
    "plugin.py": read_plugin,
    "clip.wav": read_header,
    "decoded.wav": clip,
    "eval_data_list_2023.csv": lambda path: read_sources(path.parent, "dcase2023"),
    "dev_fan.zip": lambda path: unpack(path, "fan", path.parent / "raw"),
    "md5.zip": lambda path: digest_of(path, "md5:"),
    "weights.pt": weights.read,
    "vectors.npz": lambda path: precomputed.read(path, ["a"], "clips"),
    "vectors.parquet": lambda path: precomputed.read(path, ["a"], "clips"),
    "last.ckpt": checkpoint.read,
    "hashed": store.sha256_file,
}


def make(path, kind):
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        os.chdir(path.parent)  # the name of a socket is short
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    elif kind == "loop":
        path.symlink_to(path)
    else:
        path.mkdir()


@pytest.mark.parametrize("kind", ["pipe", "device", "socket", "loop", "folder"])
@pytest.mark.parametrize("name", READERS)
def test_only_regular_files_are_read(tmp_path, monkeypatch, name, kind):
    if kind == "folder" and name in ("plugin.py", "eval_data_list_2023.csv"):
        pytest.skip("a plugin may be a folder, and ground truth is found below folders of any name")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    make(path, kind)
    with pytest.raises((ValueError, OSError)) as caught:
        READERS[name](path)
    reason = {"loop": "Too many levels of symbolic links", "folder": "Is a directory"}.get(
        kind, f"is a {kind}, not a regular file"
    )
    told = str(caught.value)
    assert name in told
    assert reason in told


def test_a_file_larger_than_any_of_its_kind_is_not_read(tmp_path):
    with open(tmp_path / "file", "w") as sparse:
        sparse.truncate(2**40)
    with pytest.raises(OSError, match="has more than 67108864 bytes"):
        regular.read_bytes(tmp_path / "file")


HOSTILE = (
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "a\nb",
    "\x1b[31mred",
    "\u202eabc",
)


def test_no_cell_of_a_table_is_a_formula_or_a_code_or_ends_a_line(tmp_path):
    frame = pd.DataFrame({"system": [*HOSTILE, "a|b", "<img src=x>", "-0.5", None], "mean": [0.5] * 13})
    write_csv(frame, tmp_path / "a.csv", "official")
    texts = [line.split(",")[0] for line in (tmp_path / "a.csv").read_text().split("\n")[1:]]
    assert texts == [
        "'=cmd|' /C calc'!A0", "'+1+1", "'-2+3", "'@SUM(A1)", "\\t=1", "\\r=1", "a\\nb", "\\x1b[31mred",
        "\\u202eabc", "a|b", "<img src=x>", "-0.5", "", "",
    ]  # fmt: skip
    rows = [[text, "1"] for text in [*HOSTILE, "a\\|b", "<img src=x>"]]
    lines = leaderboard.markdown_table(["system", "mean"], rows, left=1)
    assert len(lines) == 2 + len(rows)
    assert all(line.isprintable() for line in lines)
    assert lines[-2:] == ["| a\\\\\\|b | 1 |", "| &lt;img src=x> | 1 |"]
    assert (
        leaderboard.tex("a\n\\input{x}\x1b")
        == r"a\textbackslash{}n\textbackslash{}input\{x\}\textbackslash{}x1b"
    )
