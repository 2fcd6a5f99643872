"""benchmarks/cluster: what lies ready for Ray's launcher, Slurm and Kubernetes, held against the tools themselves."""

import copy
import functools
import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema  # Ray needs it, so it is there
import pytest
import typer
import yaml
from ray_nodes import free_ports
from rayjob_schema import rayjob

FOLDER = Path(__file__).parent.parent / "benchmarks" / "cluster"
SLURM = FOLDER / "slurm.sh"


def sweep_options(args):
    """The arguments behind ``asdray sweep``, as asdray's own command line reads these."""
    from asdray.cli.main import app

    command = typer.main.get_command(app).commands["sweep"]
    return command.make_context("sweep", list(args), obj=[]).params


def ray_options(args):
    """The arguments behind ``ray start``, as Ray's own command line reads these."""
    from ray.scripts.scripts import start

    return start.make_context("start", list(args)).params


# ------------------------------------------------------------------------------------------ Ray's launcher


def test_the_launcher_takes_ray_cluster_yaml():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((FOLDER / "ray-cluster.yaml").read_text())
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["max_workers"] == len(config["provider"]["worker_ips"])
    with pytest.raises(Exception, match="surprise"):
        validate_config({**prepared, "surprise": 1})
    for key, address in (("head_start_ray_commands", False), ("worker_start_ray_commands", True)):
        stop, start = config[key]
        assert stop.endswith("bin/ray stop")
        env, _, args = start.partition("/SHARED/asdray/.venv/bin/ray start ")
        assert "RAY_AUTH_MODE=token" in env
        options = ray_options(shlex.split(args))
        assert options["head"] is not address
        assert bool(options["address"]) is address
    assert "~/.ray/auth_token" in config["file_mounts"]


# -------------------------------------------------------------------------------------------------- Slurm

FAKES = {
    # Runs the command here, as often as there are machines.
    "srun": """
        echo "srun[$SRUN_CPUS_PER_TASK]" $* >> $LOG
        while [[ $1 == --* ]]; do shift; done
        exec "$@"
    """,
    "scontrol": """
        echo "scontrol $*" >> $LOG
        [[ $1 == show ]] && printf '%s\\n' $HOSTS || true
    """,
    "getent": "echo 127.0.0.1 STREAM",
    "ray": """
        trap 'echo "ray ended" >> $LOG; exit 143' TERM
        echo "ray $*" >> $LOG
        port=$(sed -n 's/.* --port=\\([0-9]*\\).*/\\1/p' <<< "$*")
        if [[ -n $port ]]; then $REAL_PYTHON -c "$LISTEN" $port & fi
        while :; do sleep 0.1; done
    """,
    "python": """
        touch $LOG.counts
        [[ $CODE == slow ]] && sleep 1
        echo 2
    """,
    "apptainer": """
        echo "apptainer $*" >> $LOG
        while [[ $1 != *.sif ]]; do shift; done
        shift
        exec "$@"
    """,
    "asdray": """
        echo "asdray $*" >> $LOG
        env | grep -E '^(RAY|ASDRAY)_' >> $LOG
        [[ $CODE != wait ]] && exit $CODE
        trap 'exit 75' TERM
        touch $LOG.waits
        while :; do sleep 0.1; done
    """,
}
LISTEN = """
import os, socket, sys, time
s = socket.create_server(("127.0.0.1", int(sys.argv[1])))
parent = os.getppid()
while os.getppid() == parent: time.sleep(0.1)
"""


@pytest.fixture
def slurm(tmp_path):
    """Starts slurm.sh between programs in the place of Slurm's, Ray's and asdray's."""
    fakes = tmp_path / "venv" / "bin"
    fakes.mkdir(parents=True)
    for name, code in FAKES.items():
        (fakes / name).write_text("#!/usr/bin/env bash\n" + code)
        (fakes / name).chmod(0o755)
    log = tmp_path / "log"
    log.touch()

    def start(code, hosts="one two", script=SLURM):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "ASDRAY_", "SLURM_"))}
        env |= {
            "PATH": f"{fakes}:{env['PATH']}", "SHARED": str(tmp_path / "shared"), "VENV": str(fakes.parent),
            "LOG": str(log), "CODE": code, "HOSTS": hosts, "LISTEN": LISTEN, "REAL_PYTHON": sys.executable,
            "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "x[1-2]", "SLURM_CPUS_PER_TASK": "16",
            "SLURM_GPUS_ON_NODE": "2", "USER": "me", "TEMP_DIR": str(tmp_path / "temp"),
            "PORTS": str(free_ports(1)[0]),
        }  # fmt: skip
        (tmp_path / "shared").mkdir(exist_ok=True)
        (tmp_path / "temp").mkdir(exist_ok=True)
        return subprocess.Popen(
            ["bash", script, "dis grid.yaml", "--set", "seeds=[0]"],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def calls():
        return log.read_text().splitlines()

    start.calls, start.log, start.folder = calls, log, tmp_path
    return start


def test_slurm_script_is_bash_and_every_option_has_a_comment():
    subprocess.run(["bash", "-n", SLURM], check=True)
    if shellcheck := shutil.which("shellcheck"):
        subprocess.run([shellcheck, SLURM], check=True)
    text = SLURM.read_text()
    options = re.findall(r"^#SBATCH (\S+)(.*)$", text, re.MULTILINE)
    assert {"--requeue", "--signal=B:USR1@180", "--open-mode=append"} <= {name for name, _ in options}
    assert all(re.match(r"\s+# \w", comment) for _, comment in options)
    assert not re.search(r"^[^#]*\bray stop", text, re.MULTILINE)


def test_slurm_starts_one_ray_over_all_machines_and_the_sweep_on_it(slurm):
    process = slurm("0")
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    calls = slurm.calls()
    assert "2 of 2 machines have joined" in output
    head, worker = (ray_options(shlex.split(line)[2:]) for line in calls if line.startswith("ray start"))
    assert (head["head"], worker["head"]) == (True, False)
    (line,) = (line for line in calls if line.startswith("asdray sweep"))
    assert line.startswith("asdray sweep dis grid.yaml --set seeds=[0] --address 127.0.0.1:")
    address = line.rpartition(" ")[2]
    assert worker["address"] == address == f"127.0.0.1:{head['port']}"
    for node in (head, worker):
        assert (node["num_cpus"], node["num_gpus"], node["block"]) == (16, 2, True)
        assert len(node["temp_dir"]) > 0
        assert node["max_worker_port"] - head["port"] == 199
    ports = [v for k, v in head.items() if k.endswith("port") and isinstance(v, int)]
    assert len(set(ports)) == len(ports) == 11
    assert sweep_options(["s.yaml", "--set", "seeds=[0]", "--address", address])["address"] == address
    token = slurm.folder / "shared" / ".ray-token"
    assert f"RAY_AUTH_TOKEN_PATH={token}" in calls
    assert "RAY_AUTH_MODE=token" in calls
    assert re.fullmatch(r"[0-9a-f]{64}", token.read_text())
    assert token.stat().st_mode & 0o077 == 0
    assert os.listdir(token.parent) == [".ray-token"]
    assert "warning" not in output
    assert not (slurm.folder / "temp").exists(), "taken away"
    assert not any("requeue" in line for line in calls)
    end = time.monotonic() + 200
    while calls.count("ray ended") < 2:  # each ends by its own signal
        assert time.monotonic() < end
        time.sleep(0.02)
        calls = slurm.calls()
    assert calls.count("ray ended") == 2
    steps = [line for line in calls if line.startswith("srun")]
    assert all(line.startswith("srun[16] ") for line in steps), "srun does not take it from sbatch"
    on = [re.search(r"--nodelist=(\w+)", line)[1] for line in steps if "ray start" in line]
    assert on == ["one", "two"]


def test_slurm_takes_the_token_of_a_job_that_was_faster_and_says_who_may_read_it(slurm):
    folder = slurm.folder / "shared"
    token = folder / ".ray-token"
    faster = f"#!/usr/bin/env bash\n(umask 022; echo theirs > {token})\necho ours\n"
    (slurm.folder / "venv" / "bin" / "od").write_text(faster)
    (slurm.folder / "venv" / "bin" / "od").chmod(0o755)
    process = slurm("0", hosts="one")
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert token.read_text() == "theirs\n"
    assert os.listdir(folder) == [".ray-token"]
    assert f"others than you may read or change {token}: chmod 600" in output


@pytest.mark.parametrize(("code", "again"), [("75", True), ("1", False), ("2", False)])
def test_slurm_puts_only_a_stopped_sweep_back_into_the_queue(slurm, code, again):
    process = slurm(code, hosts="one")
    process.communicate(timeout=300)
    assert process.returncode == int(code)
    calls = slurm.calls()
    assert ("scontrol requeue 4711" in calls) is again
    if again:
        assert calls.index("ray ended") < calls.index("scontrol requeue 4711"), "Ray is gone by then"


def test_slurm_says_that_ray_did_not_start(slurm):
    (slurm.folder / "venv" / "bin" / "ray").write_text("#!/usr/bin/env bash\nexit 1\n")
    process = slurm("0", hosts="one")
    assert "the first machine's Ray did not start" in process.communicate(timeout=300)[0]
    assert process.returncode == 1
    assert not any(line.startswith("asdray") for line in slurm.calls())


@pytest.mark.parametrize(("number", "again"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_slurm_stops_cleanly_before_its_time_is_over_and_stays_away_when_cancelled(slurm, number, again):
    process = slurm("wait", hosts="one")
    end = time.monotonic() + 200
    while not Path(f"{slurm.log}.waits").exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate(timeout=300)
    assert process.returncode == 75
    assert ("scontrol requeue 4711" in slurm.calls()) is again
    assert "ray ended" in slurm.calls()


def test_slurm_puts_a_job_back_whose_time_is_over_before_the_sweep_begins(slurm):
    process = slurm("slow", hosts="one")
    end = time.monotonic() + 200
    while not Path(f"{slurm.log}.counts").exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=300)
    assert process.returncode == 75
    assert "scontrol requeue 4711" in slurm.calls()
    assert not any(line.startswith("asdray") for line in slurm.calls())


def test_slurm_runs_everything_of_ours_in_an_image_that_is_named(slurm):
    script = slurm.folder / "slurm.sh"
    script.write_text(SLURM.read_text().replace("# IN=(apptainer", "IN=(apptainer"))
    process = slurm("0", script=script)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    inside = [line.partition(".sif ")[2] for line in slurm.calls() if line.startswith("apptainer exec --nv")]
    assert {" ".join(line.split()[:2]) for line in inside} == {"ray start", "python -c", "asdray sweep"}
    own = [line for line in slurm.calls() if line.startswith(("ray start", "asdray sweep"))]
    assert len(own) == len(inside) - 1


# --------------------------------------------------------------------------------------------- Kubernetes

KUBERAY = yaml.safe_load((FOLDER / "kuberay-job.yaml").read_text())


@pytest.fixture(scope="module")
def faults():
    """The faults of a RayJob by the operator's schema."""
    from ray.scripts.scripts import start

    options = {name.removeprefix("--") for option in start.params for name in option.opts}
    validator = jsonschema.Draft202012Validator(rayjob(options))
    return lambda job: [f"{error.json_path}: {error.message}" for error in validator.iter_errors(job)]


def places(value, at=()):
    """The path of everything in nested dictionaries and lists."""
    yield at
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*at, key))


def changed(path, change):
    """The job with ``change(holder, key)`` made at ``path``."""
    job = copy.deepcopy(KUBERAY)  # what YAML's anchors share stays shared
    holder = functools.reduce(lambda value, key: value[key], path[:-1], job)
    change(holder, path[-1])
    return job


EVERYWHERE = [path for path in places(KUBERAY) if path]
WRONG = {str: 7, int: "7", bool: "true", dict: [], list: {}}
CHOICES = [
    path for path in EVERYWHERE if path[-1] in {"apiVersion", "kind", "submissionMode", "mode", "medium"}
]
OPTIONAL = {
    "submissionMode", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayVersion",
    "authOptions", "mode", "workerGroupSpecs", "replicas", "dashboard-host", "resources", "requests", "limits",
    "cpu", "memory", "nvidia.com/gpu", "env", "value", "volumeMounts", "volumes", "sizeLimit", "medium",
}  # fmt: skip


def test_the_kuberay_job_is_what_its_operator_takes_and_any_slip_is_seen(faults):
    assert faults(KUBERAY) == []
    assert len(CHOICES) == 6

    def rename(holder, key):
        holder[f"{key}s"] = holder.pop(key)

    def retype(holder, key):
        holder[key] = WRONG[type(holder[key])]

    def misspell(holder, key):
        holder[key] = holder[key].swapcase()

    def leave_out(holder, key):
        del holder[key]

    named = [path for path in EVERYWHERE if isinstance(path[-1], str)]
    needed = [path for path in named if path[-1] not in OPTIONAL]
    assert len(needed) > 30
    for change, paths in ((rename, named), (retype, EVERYWHERE), (misspell, CHOICES), (leave_out, needed)):
        for path in paths:
            assert faults(changed(path, change)), f"{change.__name__} at {path}"
    assert faults({**KUBERAY, "metadata": {"name": "As_dray"}})


def test_the_kuberay_job_does_the_work_of_one_sweep():
    spec = KUBERAY["spec"]
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert spec["backoffLimit"] == 1
    lock = (FOLDER.parent.parent / "requirements.lock").read_text()
    assert f"\nray=={cluster['rayVersion']}\n" in lock
    (group,) = cluster["workerGroupSpecs"]
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    images = set()
    for template in (cluster["headGroupSpec"]["template"], group["template"]):
        pod = template["spec"]
        (container,) = pod["containers"]
        images.add(container["image"])
        assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
        assert container["resources"]["requests"] == container["resources"]["limits"]
        paths = {m["mountPath"] for m in container["volumeMounts"]}
        assert paths == {"/shared", "/cache", "/dev/shm"}
    options = [f"--{k}={v}" for k, v in cluster["headGroupSpec"]["rayStartParams"].items()]
    ray_options(["--head", *options])
    assert len(images) == 1, "one asdray on all pods"

    python, flag, module, *args = shlex.split(spec["entrypoint"])
    assert (python, flag, module) == ("python", "-m", "asdray.sweep")
    options = sweep_options(args)
    assert str(options["data"]).startswith("/shared/")
    assert str(options["results"]).startswith("/shared/")
    assert str(options["cache_dir"]) == "/cache"


@pytest.mark.parametrize("name", ["ray-cluster.yaml", "kuberay-job.yaml"])
def test_every_field_has_a_comment(name):
    """A comment above the field, beside the field, or above the field's group."""
    lines = (FOLDER / name).read_text().splitlines()
    plain = {"apiVersion", "kind", "metadata", "spec", "template", "containers", "volumes", "image", "env",
             "volumeMounts", "resources", "limits", "requests", "provider", "auth", "name", "rayClusterSpec",
             "headGroupSpec", "workerGroupSpecs", "persistentVolumeClaim", "emptyDir", "mode", "minReplicas",
             "maxReplicas", "rayStartParams", "max_workers", "worker_setup_commands"}  # fmt: skip
    for before, line in itertools.pairwise(lines):
        if (field := re.match(r"\s*(?:- )?([A-Za-z_-]+):( |$)", line)) and field[1] not in plain:
            assert "#" in before or "#" in line or field[1].endswith("_ray_commands"), line
