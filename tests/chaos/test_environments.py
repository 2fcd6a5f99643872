"""Machines that people have: no home, data of a group, no /tmp, a quota of CPUs, ``ulimit``; root alone can."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from ray_nodes import own_mounts
from sweeping import World, make_data

import asdray

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(
        os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root can become another"
    ),
]

UID = 12345
"""A user without an account."""

# May read everything, since Python may lie in root's home; writes only what is its own.
NOBODY = [
    "setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups",
    "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search",
]  # fmt: skip
ASDRAY = [sys.executable, "-m", "asdray"]
RAW = {"recipes": {"raw_spec": {"set": {"audio.duration": 1.2}}}, "machines": {"dcase2023": ["fan"]}}


@pytest.fixture
def place():
    """A folder of the other user's, with a short path, as RAY_TMPDIR."""
    folder = Path(tempfile.mkdtemp(prefix="rt-", dir="/tmp"))
    os.chown(folder, UID, UID)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def data():
    """Data that everybody may read, and their owner alone write; pytest's folders are closed to others."""
    with tempfile.TemporaryDirectory(prefix="rt-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield make_data(Path(folder) / "data")


def run(*command, **environment):
    """A command without the user's variables; of a name in ``environment`` without a value nothing is set."""
    left_out = ("USER", "LOGNAME", "USERNAME", "LNAME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
    variables = {name: value for name, value in os.environ.items() if name not in left_out}
    variables |= {"PYTHONDONTWRITEBYTECODE": "1", **environment}
    return subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        env={name: str(value) for name, value in variables.items() if value is not None},
        timeout=600,
        check=False,
    )


def in_mounts(script, code, **environment):
    """What Python prints after a shell script in mounts of its own."""
    command = ["unshare", "--mount", "--propagation=private", "bash", "-ec", f'{script}\nexec "$@"', "-"]
    ended = run(*command, sys.executable, "-c", code, **environment)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


@pytest.mark.skipif(own_mounts() is None, reason="no mounts of its own here")
def test_quotas_and_a_read_only_tmp_are_seen_as_the_kernel_shows_them():
    cpus = "from asdray import limits; print(limits.cpus())"
    group = "mount -t tmpfs tmpfs /sys/fs/cgroup; cd /sys/fs/cgroup"
    assert in_mounts(f"{group}; echo 100000 100000 > cpu.max", cpus) == "1"
    old = f"{group}; mkdir cpu; cd cpu; echo 150000 > cpu.cfs_quota_us; echo 100000 > cpu.cfs_period_us"
    assert in_mounts(old, cpus) == "1"
    read_only = "mount -t tmpfs tmpfs /mnt; mount -t tmpfs -o ro tmpfs /tmp"
    if not asdray.__file__.startswith("/tmp/"):
        place = "from asdray.temporary import place; print(place())"
        assert in_mounts(read_only, place, RAY_TMPDIR="/mnt") == "/mnt"
        assert in_mounts(read_only, place, TMPDIR="/mnt") == "/mnt"


def test_without_a_home_and_an_account_a_plot_is_made(data, place):
    trial = ["raw_spec", "dcase2023", "--machines", "fan", "--set", "audio.duration=1.2", "--data", data]
    where = ["--results", place / "results", "--cache-dir", place / "cache"]
    ended = run(*NOBODY, *ASDRAY, "run", *trial, *where, HOME="/nonexistent", RAY_TMPDIR=place)
    assert ended.returncode == 0, ended.stderr
    assert list(place.glob("results/trials/*/*/*/output/*/fan/umap/umap.png"))
    assert list(place.glob(f"asdray-caches-{UID}/numba_cache_dir/*/*.nbi")), (
        "of which the next process has use"
    )


def test_data_of_a_group_are_read_where_they_are(data, tmp_path, place):
    trial = ["raw_spec", "dcase2023", "--machines", "fan", "--no-umap", "--set", "audio.duration=1.2"]
    command = [*NOBODY, *ASDRAY, "run", *trial, "--data", data, "--results", place / "results"]
    shutil.rmtree(data / "cache", ignore_errors=True)
    ended = run(*command)
    assert ended.returncode == 2
    assert re.search(
        rf"^error: {data}/cache.*: name another place for decoded audio by --cache-dir", ended.stderr, re.M
    ), ended.stderr
    ended = run(*command, "--cache-dir", place / "cache")
    assert ended.returncode == 0, ended.stderr
    ended = run(
        *NOBODY, *ASDRAY, "doctor", "--data", data, "--results", place, "--cache-dir", place / "cache"
    )
    assert f"data {data}: formatted years can be read" in ended.stdout
    ended = run(*NOBODY, *ASDRAY, "format", "dcase2023", "--data", data)
    assert ended.returncode == 2
    assert "dcase2023 is formatted already" in ended.stderr


@pytest.mark.parametrize(
    ("limit", "code", "says"),
    [
        ("--nproc=100:100", 1, "`ulimit -u` is 100, which leaves"),
        ("--as=3000000000", 1, "`ulimit -v` is 3.0 GB"),
        ("--as=8000000000", 0, ""),
    ],
)
def test_limits_of_processes_are_kept_or_named(data, tmp_path, place, limit, code, says):
    world = World(data, place / "results")
    command = ["prlimit", limit, *ASDRAY, *world.command(**RAW), "--cache-dir", place / "cache"]
    ended = run(*NOBODY, *command, RAY_TMPDIR=place, HOME=place)
    assert ended.returncode == code, ended.stdout + ended.stderr
    assert says in ended.stderr
    assert len(ended.stderr.splitlines()) == code
    assert not list(place.glob("*asdray-*"))


LOGS = """
import os, sys, time, urllib.error, urllib.request
from asdray.sweep.cluster import ray_session
open_ = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
with ray_session(None, dashboard=True) as cluster:
    headers = {"Authorization": "Bearer " + os.environ["RAY_AUTH_TOKEN"]}
    asked = urllib.request.Request(f"{cluster.dashboard}/api/v0/logs?node_id={cluster.node}", headers=headers)
    for _ in range(60):  # the agent of the node starts after Ray
        try:
            print(open_(asked).status, flush=True)
            break
        except urllib.error.HTTPError as error:
            print(error, file=sys.stderr)
            time.sleep(1)
    else:
        sys.exit("no logs")
    sys.stdin.read()
"""


def test_two_rays_on_a_machine_with_a_proxy_both_have_a_dashboard_with_logs(place):
    names = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
    nowhere = dict.fromkeys([*names, *map(str.upper, names)], "http://127.0.0.1:9")
    variables = {**os.environ, **nowhere, "RAY_TMPDIR": str(place)}
    for name in ("no_proxy", "NO_PROXY"):
        variables.pop(name, None)
    command = [sys.executable, "-c", LOGS]
    with contextlib.ExitStack() as stack:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        for _ in range(2):
            started = stack.enter_context(subprocess.Popen(command, env=variables, text=True, **pipes))
            stack.callback(started.stdin.close)  # ends the Ray
            assert started.stdout.readline() == "200\n"
