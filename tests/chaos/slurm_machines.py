"""A Slurm of Debian's packages on two machines that are namespaces here: own network, processes, disk and name."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import time
from pathlib import Path

MACHINES = {"node1": "10.77.0.1", "node2": "10.77.0.2"}
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "ip", "unshare", "nsenter")
APART = ["unshare", "--mount", "--net", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]


@functools.cache
def missing() -> str | None:
    """Why there can be no Slurm here, or None."""
    if os.geteuid():
        return "Slurm on made-up machines needs root"
    if lacking := [name for name in PROGRAMS if not shutil.which(name)]:
        return f"not installed: {', '.join(lacking)} (make chaos-slurm installs these)"
    if subprocess.run([*APART, "true"], capture_output=True, check=False).returncode:
        return "no right to make namespaces"
    return None


class Slurm:
    """One controller, and two machines with a disk of their own at ``local``; files elsewhere are shared.

    Args:
        folder: for configuration, logs and states.
        cpus: of each machine.
    """

    def __init__(self, folder: Path, cpus: int = 1) -> None:
        self.folder = folder
        self.local = folder / "local"
        self.local.mkdir(parents=True)
        self.conf = folder / "slurm.conf"
        self.inits: dict[str, int] = {}
        self.processes: list[subprocess.Popen] = []
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "ASDRAY_", "SLURM_"))}
        self.env["SLURM_CONF"] = str(self.conf)
        self.conf.write_text(self._settings(cpus))
        for name in MACHINES:
            (folder / f"hosts-{name}").write_text(self._hosts(name))
        (folder / "munge.key").write_bytes(os.urandom(64))
        (folder / "munge.key").chmod(0o600)

    def _hosts(self, own: str) -> str:
        """``/etc/hosts`` as Debian's installer writes it: a machine's own name is no address for others."""
        lines = [f"{'127.0.1.1' if name == own else ip} {name}\n" for name, ip in MACHINES.items()]
        return "".join(["127.0.0.1 localhost\n", *lines])

    def _settings(self, cpus: int) -> str:
        (self.folder / "state").mkdir()
        socket = self.folder / "munge.socket"
        return f"""
ClusterName=chaos
SlurmctldHost=node1({MACHINES["node1"]})
SlurmUser=root
AuthType=auth/munge
# A job that was put back waits for as long as credentials are valid.
AuthInfo=socket={socket},cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=30
MinJobAge=3600
SchedulerParameters=batch_sched_delay=1,sched_interval=5,bf_interval=5
StateSaveLocation={self.folder}/state
SlurmdSpoolDir={self.folder}/spool-%n
SlurmctldPidFile={self.folder}/slurmctld.pid
SlurmdPidFile={self.folder}/slurmd-%n.pid
SlurmctldLogFile={self.folder}/slurmctld.log
SlurmdLogFile={self.folder}/slurmd-%n.log
MailProg=/bin/true
NodeName=node1 NodeAddr={MACHINES["node1"]} CPUs={cpus} RealMemory=4000
NodeName=node2 NodeAddr={MACHINES["node2"]} CPUs={cpus} RealMemory=4000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

    def __enter__(self) -> Slurm:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        for process in reversed(self.processes):  # a namespace's first process takes all others along
            process.kill()
            process.wait()

    def _start(self) -> None:
        for name in MACHINES:
            self._begin([*APART, "bash", "-c", "sleep infinity & wait"])
            self.inits[name] = _child(self.processes[-1].pid)
        one, two = (str(pid) for pid in self.inits.values())
        cable = [
            "ip",
            "link",
            "add",
            "cable",
            "netns",
            one,
            "type",
            "veth",
            "peer",
            "name",
            "cable",
            "netns",
            two,
        ]
        subprocess.run(cable, check=True)
        for name, ip in MACHINES.items():
            self.run(
                f"hostname {name}; ip link set lo up; ip addr add {ip}/24 dev cable; ip link set cable up;"
                f"mount --bind {self.folder}/hosts-{name} /etc/hosts; mount -t tmpfs local {self.local};"
                f"mkdir -p {self.folder}/spool-{name}",
                on=name,
            )
        munge = ["munged", "--foreground", "--force", f"--key-file={self.folder}/munge.key"]
        munge += [f"--{kind}-file={self.folder}/munge.{kind}" for kind in ("pid", "log", "seed")]
        self._begin([*munge, f"--socket={self.folder}/munge.socket"])
        self._wait(lambda: (self.folder / "munge.socket").exists())
        self._begin([*self._on("node1"), "slurmctld", "-D", "-f", self.conf])
        for name in MACHINES:
            self._begin([*self._on(name), "slurmd", "-D", "-N", name, "-f", self.conf])
        self._wait(lambda: self.states() == {"IDLE"})

    def _begin(self, command) -> None:
        with open(self.folder / "daemons.log", "a") as log:
            self.processes.append(
                subprocess.Popen(
                    command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.env, start_new_session=True,
                )
            )  # fmt: skip

    def _wait(self, holds, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not holds():
            logs = "".join(path.read_text() for path in self.folder.glob("*.log"))
            assert time.monotonic() < end, logs[-5000:]
            time.sleep(0.2)

    def _on(self, name: str) -> list[str]:
        enter = ["--mount", "--net", "--uts", "--pid", f"--wd={os.getcwd()}"]
        return ["nsenter", f"--target={self.inits[name]}", *enter]

    def run(self, command: str, on: str = "node1", check: bool = True, **env: str) -> str:
        """Runs a shell command on a machine; returns what it prints."""
        run = subprocess.run(
            [*self._on(on), "bash", "-c", command],
            capture_output=True, text=True, check=False, env={**self.env, **env}, timeout=120,
        )  # fmt: skip
        assert not check or run.returncode == 0, run.stdout + run.stderr
        return run.stdout

    def states(self) -> set[str]:
        """The states of the machines."""
        with contextlib.suppress(AssertionError):
            lines = self.run("scontrol show node --oneliner").splitlines()
            return {line.partition(" State=")[2].split()[0] for line in lines}
        return set()

    def job(self, job: int) -> dict[str, str]:
        """The fields of ``scontrol show job``."""
        shown = self.run(f"scontrol show job --oneliner {job}")
        return dict(field.split("=", 1) for field in shown.split() if "=" in field)

    def state(self, job: int) -> str:
        """``RUNNING``, ``COMPLETED``, ..."""
        return self.job(job)["JobState"]

    def processes_of(self, name: str) -> list[str]:
        """The commands that run on a machine beside Slurm and its first process."""
        own = ("slurm", ": slurm", "bash -c sleep", "sleep infinity", "bash -c ps", "ps ", "COMMAND")
        lines = self.run("ps -eo args", on=name).splitlines()
        return [line for line in lines if not line.startswith(own) and "/slurm" not in line.split()[0]]


def _child(pid: int) -> int:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            return int(children[0])
        time.sleep(0.01)
    raise TimeoutError("unshare started nothing")
