"""A full disk is told with the file that could not be written, whatever library wrote and wherever it read."""

import subprocess
import sys

import pytest
from ray_nodes import own_mounts

PROGRAM = """
import os, shutil, sys
from pathlib import Path
import numpy as np, pyarrow as pa, torch
from asdray import store
from asdray.frontends import checkpoint
from asdray.sweep.events import EventLog

full = Path("/mnt")
noise = np.random.default_rng(0).random(1_000_000)

def by_torch(path):
    with store.atomic_path(path) as temporary:
        checkpoint.write({"x": torch.from_numpy(noise)}, temporary)

def by_copy(path):
    source = Path(sys.argv[1])
    noise.tofile(source)
    with store.atomic_path(path) as temporary:
        shutil.copyfile(source, temporary)

ways = {
    "text": lambda path: store.write_text(path, "x" * 9_000_000),
    "parquet": lambda path: store.write_parquet(path, pa.table({"x": noise})),
    "torch.ckpt": by_torch,
    "copy": by_copy,
    "log": lambda path: EventLog(path).add({"status": "failed", "error": "x" * 9_000_000}),
}
for name, write in ways.items():
    try:
        write(full / name)
    except OSError as error:
        print(name, error)
    for path in full.iterdir():
        path.unlink()
"""


def test_the_full_disk_is_named_whatever_writes(tmp_path):
    if own_mounts() is None:
        pytest.skip("a small disk needs a mount of its own")
    small = 'mount -t tmpfs -o size=2m none /mnt && exec "$@"'
    command = [
        *own_mounts(),
        "sh",
        "-c",
        small,
        "sh",
        sys.executable,
        "-c",
        PROGRAM,
        str(tmp_path / "source"),
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    names = ["text", "parquet", "torch.ckpt", "copy", "log"]
    assert run.stdout.splitlines() == [
        f"{name} [Errno 28] No space left on device: '/mnt/{name}'" for name in names
    ]


def test_a_command_that_meets_a_full_disk_names_it_and_does_not_blame_the_input(
    tmp_path, asdray, monkeypatch
):
    """A copy's error names its source first."""

    def fail(*_, **__):
        raise OSError(28, "No space left on device", "/source", None, "/results/copy")

    monkeypatch.setattr("asdray.dcase.format.format_dataset", fail)
    code, _, error = asdray("format", "dcase2023", "--data", tmp_path)
    assert (code, error) == (1, "error: /results/copy: No space left on device\n")
