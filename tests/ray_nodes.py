"""A real Ray cluster on the test machine: a process group, an address and a folder per node."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RAY = Path(sys.executable).with_name("ray")
HEAD = "127.0.0.1"


@functools.cache
def own_mounts() -> list[str] | None:
    """The command to give a process private mounts; None if the user has no right to."""
    for command in (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"]):
        if shutil.which("unshare"):
            mount = [*command, "mount", "-t", "tmpfs", "none", "/mnt"]
            if not subprocess.run(mount, capture_output=True, check=False).returncode:
                return command
    return None


def free_ports(n: int) -> list[int]:
    """Free ports."""
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind((HEAD, 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def processes(session: int) -> list[int]:
    """The processes of a session: Ray's workers have groups of their own."""
    found = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdecimal()):
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(pid) == session:
                found.append(pid)
    return found


class RayCluster:
    """A head, and nodes to add and kill. Only processes of the cluster are ever killed.

    ``dashboard``: jobs are submitted to it; it takes as much of the machine as three nodes.
    """

    def __init__(self, dashboard=False):
        # Short: the paths of Unix sockets below it may have 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="rt-", dir="/tmp"))
        self.token = self.folder / "token"
        self.token.write_text(secrets.token_hex(16))
        self.token.chmod(0o600)
        self.env = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_memory_monitor_refresh_ms": "0",
            # Workers in advance, which none of our tasks could use: these have an environment of their own.
            "RAY_enable_worker_prestart": "0",
            "RAY_prestart_worker_first_driver": "0",
        }
        self.env.pop("RAY_ADDRESS", None)
        self.nodes: dict[str, subprocess.Popen] = {}
        self.head = HEAD
        self._has_dashboard = dashboard
        self.address = self.dashboard = ""
        """Addresses of Ray and of the dashboard, once the head runs."""

    def begin(self, cpus=1) -> None:
        """Starts the head; call `end` afterwards, also after a failure."""
        for attempt in range(3):
            port, dashboard_port, client = free_ports(3)
            self.address = f"{self.head}:{port}"
            self.dashboard = f"http://{self.head}:{dashboard_port}"
            try:
                self._start(
                    self.head, cpus, "--head", f"--port={port}", f"--dashboard-port={dashboard_port}",
                    f"--include-dashboard={str(self._has_dashboard).lower()}",
                    f"--ray-client-server-port={client}", "--no-monitor",
                )  # fmt: skip
                return
            except AssertionError:  # somebody else may have taken one of the ports meanwhile
                if attempt == 2:
                    raise
                self.kill(self.head)

    def add(self, ip, cpus=1, *options, mounts: dict[Path, str] | None = None, **env) -> None:
        """Starts a node at ``127.0.0.x``; ``mounts``: private folders, path -> options of the tmpfs."""
        self._start(ip, cpus, f"--address={self.address}", *options, mounts=mounts, **env)

    def inside(self, ip) -> list[str]:
        """The command that starts a program where the node is; empty: here."""
        return []

    def _start(self, ip, cpus, *options, mounts=None, **env):
        command = [
            *self.inside(ip), str(RAY), "start", "--block", f"--node-ip-address={ip}", f"--num-cpus={cpus}",
            f"--temp-dir={self.folder}/{ip.rpartition('.')[2]}", "--object-store-memory=100000000",
            "--dashboard-agent-listen-port=0", *options,
        ]  # fmt: skip
        if mounts:
            mount = " && ".join(f"mount -t tmpfs -o {o} tmpfs {p}" for p, o in mounts.items())
            command = [*own_mounts(), "sh", "-c", f'{mount} && exec "$@"', "sh", *command]
        self._begin(ip, command, env)
        # On a machine that is busy with other tests: Ray gives its own processes 30 seconds, no more.
        while not self._runs(ip):
            assert "timed out during startup" in self._log(ip), self._log(ip)
            self.kill(ip)
            self._begin(ip, command, env)

    def _begin(self, ip, command, env):
        with open(self.folder / f"{ip}.log", "w") as file:
            self.nodes[ip] = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**self.env, **env},
                start_new_session=True,
            )

    def _runs(self, ip):
        """True if the node came up; waits for the decision."""
        while self.nodes[ip].poll() is None:
            if "Ray runtime started" in self._log(ip):
                return True
            time.sleep(0.1)
        return False

    def _log(self, ip):
        return (self.folder / f"{ip}.log").read_text()

    def files(self, ip, path: Path) -> Path:
        """``path`` as the node sees it."""
        return Path(f"/proc/{self.nodes[ip].pid}/root{path}")

    def kill(self, ip) -> None:
        """Kills a node with all its processes."""
        node = self.nodes.pop(ip)
        for pid in processes(node.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.wait()

    def end(self) -> None:
        for ip in list(self.nodes):
            self.kill(ip)
        shutil.rmtree(self.folder, ignore_errors=True)
