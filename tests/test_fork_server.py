"""Workers of a local Ray are forks of one server that has imported their modules."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import AE, DIS, trial_of

from asdray.config.system import load_recipe
from asdray.sweep.fork_server import Imports
from asdray.sweep.launch_worker import request_of

SCRIPT = "default_worker.py"
TUNE = {"command_prefix": [], "env_vars": {"A": "1"}, "py_executable": sys.executable, "java_jars": []}


def facts(modules=("wave", "mailbox")):
    """Facts of the worker in which this runs."""
    return {
        "modules": [name for name in modules if name in sys.modules],
        "parent": Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode().replace("\0", " "),
        "group": os.getpgid(0) == os.getpid(),
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "threads": os.environ["OMP_NUM_THREADS"],
        "of_tune": os.environ.get("OF_TUNE"),
        "stdin": os.readlink("/proc/self/fd/0"),
        "sockets": sorted(Path(os.environ["ASDRAY_FORK_SERVER"]).parent.glob("f")) != [],
    }


def ask_workers():
    """In a process of its own: facts of a task's worker, of one with variables, and without a server."""
    from asdray.sweep.cluster import ray_session

    imports = Imports(training=("wave",), tasks=("mailbox", "no_such_module"))
    with ray_session(None, dashboard=False, imports=imports):
        import ray

        remote = ray.remote(num_cpus=0)(facts)
        trains = remote.options(runtime_env={"env_vars": {"OF_TUNE": "yes"}})
        found = [ray.get(trains.remote()), ray.get(remote.remote())]
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        (server,) = (p for p in children if "fork_server" in Path(f"/proc/{p}/cmdline").read_text())
        os.kill(int(server), signal.SIGKILL)
        other = remote.options(runtime_env={"env_vars": {"OF_TUNE": "no"}})
        found.append(ray.get(other.remote()))
    left = subprocess.run(["pgrep", "-P", str(os.getpid())], capture_output=True, check=False).stdout
    print(json.dumps([found, left.decode()]))


@pytest.mark.ray
def test_workers_are_forks_with_the_modules_of_their_kind_and_do_without_a_server():
    done = subprocess.run([sys.executable, __file__, "workers"], capture_output=True, text=True, check=True)
    (trains, task, alone), left = json.loads(done.stdout)
    assert trains["modules"] == ["wave"]
    assert trains["of_tune"] == "yes"
    assert task["modules"] == ["wave", "mailbox"]
    assert task["of_tune"] is None
    assert alone["modules"] == [], "Ray's own script"
    assert alone["of_tune"] == "no"
    for worker in (trains, task):
        assert "fork_server" in worker.pop("parent")
        assert worker["group"], "Ray ends a worker with its group"
    assert "raylet" in alone.pop("parent")
    assert len({(w["niceness"], w["threads"], w["stdin"], w["sockets"]) for w in (trains, task, alone)}) == 1
    assert not left, "processes that outlived the session"


HOLD = """
import sys
from pathlib import Path
from asdray.sweep.fork_server import ForkServer, Imports
server = ForkServer(Path(sys.argv[1]), Imports((), ()))
print(server._process.pid, flush=True)
sys.stdin.read()
"""


def test_the_server_ends_with_its_driver(tmp_path):
    command = [sys.executable, "-c", HOLD, tmp_path / "f"]
    driver = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    server = Path("/proc") / driver.stdout.readline().strip()
    assert b"fork_server" in (server / "cmdline").read_bytes() or server.exists()
    driver.kill()
    driver.communicate()
    end = time.monotonic() + 60
    while server.exists() and (server / "cmdline").read_bytes():
        assert time.monotonic() < end, "the server outlived its driver"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), {"trains": False, "environment": {"B": "2"}}),
        ((f"--serialized-runtime-env-context={json.dumps(TUNE)}",), {"trains": True}),
        (("--language=CPP",), None),
        ((f"--serialized-runtime-env-context={json.dumps({**TUNE, 'py_executable': 'python9'})}",), None),
        ((f"--serialized-runtime-env-context={json.dumps({**TUNE, 'command_prefix': ['cd x']})}",), None),
        ((f"--serialized-runtime-env-context={json.dumps({**TUNE, 'env_vars': {'A': '$B'}})}",), None),
    ],
)
def test_what_a_fork_cannot_be_is_left_to_ray(options, expected):
    request = request_of([SCRIPT, "--node-id=3", *options], {"B": "2"}, "/")
    if expected is None:
        assert request is None
    else:
        assert request["arguments"] == [SCRIPT, "--node-id=3"]
        assert request["folder"] == "/"
        assert request == {**request, **expected}
        assert request["environment"]["B"] == "2"


def test_no_module_imports_ray_or_opens_a_gpu():
    """Ray's settings would be those of the server; CUDA would fail in its forks."""
    ae, dis = trial_of(AE).system, trial_of(DIS).system
    imports = Imports.of([ae, dis], umap=True)
    code = f"""
import importlib, json, os, sys
for name in {(*imports.training, *imports.tasks)}:
    importlib.import_module(name)
assert not [name for name in sys.modules if name.split(".")[0] == "ray"]
import torch
assert not torch.cuda.is_initialized()
print(json.dumps([open(f"/proc/self/task/{{n}}/comm").read().strip() for n in os.listdir("/proc/self/task")]))
"""
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **threads},
    )
    _, *others = json.loads(done.stdout)
    assert all(name.startswith("jemalloc") for name in others), "another thread would be missing in the forks"


def test_modules_of_a_sweep():
    ae, dis = trial_of(AE).system, trial_of(DIS).system
    imports = Imports.of([ae, dis], umap=False)
    assert {"asdray.stages.fit", "asdray.frontends.autoencoder", "asdray.frontends.discriminative"} <= {
        *imports.training
    }
    assert "umap" not in imports.tasks
    assert "umap" in Imports.of([ae], umap=True).tasks
    raw = load_recipe("raw_spec").system
    assert "asdray.stages.fit" not in Imports.of([raw], umap=False).training, "nothing to learn"


if __name__ == "__main__":
    ask_workers()
