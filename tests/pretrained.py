"""Real pretrained weights for tests: the file that comes inside the Python package aisfx."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from asdray.cli.main import app

_fetched: list[Path] = []


def aisfx_data(tmp_path_factory) -> Path:
    """A data folder with the weights of aisfx, fetched once per test process."""
    if not _fetched:
        folder = tmp_path_factory.mktemp("pretrained")
        done = CliRunner().invoke(app, ["encoders", "fetch", "aisfx", "--data", str(folder)], obj=[])
        assert done.exit_code == 0, (done.output, done.exception)
        _fetched.append(folder)
    return _fetched[0]
