"""A Ray cluster whose nodes have networks of their own, joined by a bridge, from which any can be cut off."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess

from ray_nodes import RayCluster

_PREFIX = f"asdray-{os.getpid()}"
_HUB = f"{_PREFIX}-hub"


def _ip(*arguments: str, check: bool = True) -> bool:
    return not subprocess.run(["ip", *arguments], capture_output=True, check=check).returncode


@functools.cache
def own_networks() -> bool:
    """True if this user may make networks with bridges between them."""
    if not shutil.which("ip") or not _ip("netns", "add", _HUB, check=False):
        return False
    try:
        return _ip("-n", _HUB, "link", "add", "br0", "type", "bridge", check=False)
    finally:
        _ip("netns", "del", _HUB)


class Networks:
    """Network namespaces at 10.77.0.1, .2, ..., all on one bridge, which has a namespace of its own."""

    def __init__(self, n: int) -> None:
        self.ips = [f"10.77.0.{i}" for i in range(1, n + 1)]
        _ip("netns", "add", _HUB)
        _ip("-n", _HUB, "link", "add", "br0", "type", "bridge")
        _ip("-n", _HUB, "link", "set", "br0", "up")
        for ip in self.ips:
            name, port = self.name(ip), self._port(ip)
            _ip("netns", "add", name)
            _ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", _HUB)
            _ip("-n", name, "addr", "add", f"{ip}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", name, "link", "set", device, "up")
            _ip("-n", _HUB, "link", "set", port, "master", "br0", "up")

    @staticmethod
    def name(ip: str) -> str:
        """The namespace of an address."""
        return f"{_PREFIX}-{ip.rpartition('.')[2]}"

    @staticmethod
    def _port(ip: str) -> str:
        return f"port{ip.rpartition('.')[2]}"

    def cut(self, ip: str) -> None:
        """Cuts an address off: whatever is sent is lost, and no side is told."""
        _ip("-n", _HUB, "link", "set", self._port(ip), "down")

    def join(self, ip: str) -> None:
        """Ends a `cut`."""
        _ip("-n", _HUB, "link", "set", self._port(ip), "up")

    def end(self) -> None:
        """Removes the namespaces; the devices go with them."""
        for name in (*map(self.name, self.ips), _HUB):
            _ip("netns", "del", name, check=False)


class NetCluster(RayCluster):
    """A Ray cluster with a network per node; the head is at the first address."""

    def __init__(self, networks: Networks, env: dict[str, str]) -> None:
        super().__init__()
        self.head = networks.ips[0]
        self.env |= env

    def inside(self, ip: str) -> list[str]:
        return ["ip", "netns", "exec", Networks.name(ip)]
