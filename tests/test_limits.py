"""What a process may use: cgroups of both versions, ``ulimit``, and what is said where they leave too little."""

import os
import resource
from pathlib import Path

import pytest
from sweeping import World, make_data

from asdray import limits
from asdray.doctor import machine as doctor_machine
from asdray.sweep.cluster import which_ray


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("limits"))


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """Writes the files of pretended cgroups, and the groups of this process as ``/proc/self/cgroup`` has them."""
    monkeypatch.setattr(limits, "ROOT", tmp_path / "cgroup")
    monkeypatch.setattr(limits, "_OWN", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))

    def write(files, own="0::/\n"):
        for name, content in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        (tmp_path / "own").write_text(own)

    return write


@pytest.mark.parametrize(
    ("files", "own", "cpus"),
    [
        ({}, "", 8),
        ({"cpu.max": "max 100000\n"}, "0::/\n", 8),
        ({"cpu.max": "200000 100000\n"}, "0::/\n", 2),
        ({"cpu.max": "3900000 100000\n"}, "0::/\n", 8),  # affinity is the smaller one
        ({"cpu.max": "150000 100000\n"}, "0::/\n", 1),
        ({"cpu.max": "50000 100000\n"}, "0::/\n", 1),
        # Slurm and systemd: the limit is of a group above the process's own.
        ({"job/cpu.max": "300000 100000\n", "job/step/cpu.max": "max 100000\n"}, "0::/job/step\n", 3),
        ({"job/cpu.max": "300000 100000\n"}, "0::/other\n", 8),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, "4:cpu,cpuacct:/\n", 8),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, "4:cpu,cpuacct:/\n", 4),
        # Docker without a namespace of cgroups: the path is of the host, the files are the container's.
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, "4:cpu:/docker/1a\n", 4),
        ({"cpu/a/cpu.cfs_quota_us": "50\n", "cpu/a/cpu.cfs_period_us": "10\n"}, "4:cpu,cpuacct:/a/b\n", 5),
        ({"cpu/a/cpu.cfs_quota_us": "50\n", "cpu/a/cpu.cfs_period_us": "10\n"}, "9:memory:/a\n4:cpu:/c\n", 8),
    ],
)  # fmt: skip
def test_cpus_are_the_smaller_of_affinity_and_quota(cgroup, files, own, cpus):
    cgroup(files, own)
    assert limits.cpus() == cpus


@pytest.mark.parametrize(
    ("files", "own", "limit"),
    [
        ({"memory.max": "max\n"}, "0::/\n", None),
        ({"memory.max": "1000000000\n"}, "0::/\n", 1_000_000_000),
        ({"a/memory.max": "2000000000\n", "a/b/memory.max": "max\n"}, "0::/a/b\n", 2_000_000_000),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, "5:memory:/\n", None),
        ({"memory/memory.limit_in_bytes": "3000000000\n"}, "5:memory:/\n", 3_000_000_000),
    ],
)
def test_memory_is_that_of_the_machine_or_less(cgroup, files, own, limit):
    cgroup(files, own)
    machine = next(line for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line)
    assert limits.memory() == pytest.approx(limit or int(machine.split()[1]) * 1024, rel=1e-6)


def test_threads_that_are_left(cgroup, monkeypatch):
    monkeypatch.setattr(limits, "_is_free_of_nproc", lambda: False)
    monkeypatch.setattr(resource, "getrlimit", lambda what: (10_000, 10_000))
    cgroup({})
    left, which = limits.free_threads()
    assert 10_000 - 5000 < left < 10_000, "threads of this user run"
    assert which == "`ulimit -u` is 10000"
    cgroup({"pids.max": "max\n", "pids.current": "90\n"})
    assert limits.free_threads()[0] == pytest.approx(left, abs=300)
    cgroup({"pids.max": "100\n"})
    assert limits.free_threads() == (10, "the limit of processes in this container is 100")
    assert "`docker run --pids-limit`" in limits.shortage()
    monkeypatch.setattr(resource, "getrlimit", lambda what: (resource.RLIM_INFINITY,) * 2)
    cgroup({"pids.max": "max\n"})
    assert limits.free_threads() is limits.shortage() is None
    assert limits.in_words() == []


def test_root_knows_no_limit_of_processes(monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert limits._is_free_of_nproc()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "there is no memory left (`ulimit -v` is 8.0 GB): raise the limit or run less"),
        (OSError(12, "Cannot allocate memory"), "there is no memory left"),
        (RuntimeError("can't start new thread"), "no process or thread can be started"),
        (BlockingIOError(11, "Resource temporarily unavailable"), "no process or thread can be started"),
        (RuntimeError("size mismatch"), None),
        (ValueError("n_mels is 0"), None),
    ],
)
def test_errors_of_limits_are_told_with_the_limit(monkeypatch, error, says):
    monkeypatch.setattr(limits, "address_space", lambda: 8_000_000_000)
    monkeypatch.setattr(limits, "free_threads", lambda: (5000, "`ulimit -u` is 9000"))
    told = limits.told_by(error)
    assert told is None if says is None else told.startswith(says)


@pytest.mark.parametrize(
    ("name", "limit", "says"),
    [
        ("free_threads", (17, "`ulimit -u` is 40"), "`ulimit -u` is 40, which leaves 17: raise the limit"),
        ("address_space", 4_000_000_000, "`ulimit -v` is 4.0 GB: raise the limit"),
    ],
)
def test_too_little_for_ray_is_one_line_and_no_fault_of_the_input(
    monkeypatch, data, tmp_path, asdray, name, limit, says
):
    world = World(data, tmp_path / "results")
    monkeypatch.setattr(limits, name, lambda: limit)
    code, _, error = asdray(*world.command(recipes={"raw_spec": {"set": {"audio.duration": 1.2}}}))
    assert (code, len(error.splitlines())) == (1, 1)
    assert says in error
    assert "`asdray run`" in error
    (found,) = doctor_machine._limits()
    assert found.kind == "wrong"
    assert says in found.text


@pytest.mark.parametrize(
    ("asked", "environment", "address", "line"),
    [
        (None, {}, None, "starting Ray ..."),
        ("10.0.0.1:6379", {"RAY_ADDRESS": "auto"}, "10.0.0.1:6379", "joining Ray at 10.0.0.1:6379 ..."),
        ("auto", {}, "auto", "joining Ray at auto ..."),
        (None, {"RAY_ADDRESS": "auto"}, None, "RAY_ADDRESS is auto: --address auto would join"),
        (None, {"RAY_ADDRESS": "h:1", "RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}, "h:1", "h:1, whose job this is"),
    ],
)
def test_no_ray_of_others_is_joined_without_the_option(asked, environment, address, line):
    found, said = which_ray(asked, environment)
    assert found == address
    assert line in said
