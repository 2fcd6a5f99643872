"""What another user of the machine sees and can do: sockets, folders, processes. The tests run as root."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import grpc

NOBODY = 65534
LOOPBACK = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")
"""127.0.0.1, the same as an IPv6 address, and ::1, as ``/proc/net/tcp*`` spells them."""


def listening(pids):
    """Address as in ``/proc/net`` -> name of the process, of every TCP or UDP socket that accepts strangers."""
    sockets = {}
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == ("0A" if kind.startswith("tcp") else "07"):
                sockets[f"socket:[{fields[9]}]"] = fields[1]
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError):  # a process that has just ended
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            for descriptor in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    if address := sockets.get(os.readlink(descriptor)):
                        found[address] = name
    return found


def port_of(address):
    return int(address.rpartition(":")[2], 16)


def abstract_sockets(pids):
    """Unix sockets without a file, which every user may connect to, of some processes."""
    named = {}
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if len(fields) == 8 and fields[7].startswith("@"):
            named[f"socket:[{fields[6]}]"] = fields[7]
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            links = [os.readlink(entry) for entry in os.scandir(f"/proc/{pid}/fd")]
            found += [named[link] for link in links if link in named]
    return found


# ------------------------------------------------------------------------------- in a process of another user


def ways_in(folders, pids, secret):
    """Every way to the secret, or into a folder; there should be none."""
    attempts = {
        "list": os.listdir,
        "enter": lambda folder: os.stat(f"{folder}/."),
        "plant a link in": lambda folder: os.symlink("/etc/passwd", f"{folder}/planted"),
        "replace": lambda folder: os.rename(folder, f"{folder}-stolen"),
    }
    found = []
    for folder in folders:
        for way, attempt in attempts.items():
            with contextlib.suppress(PermissionError):
                attempt(folder)
                found.append(f"{way} {folder}")
    for pid in pids:
        with contextlib.suppress(PermissionError, FileNotFoundError, ProcessLookupError):
            Path(f"/proc/{pid}/environ").read_bytes()
            found.append(f"environment of {pid}")
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if secret.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(f"command line of {pid}")
    return found


def http_status(port, path, body=None, token=None):
    """The status of an HTTP request; None if the port does not speak HTTP."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    content = body.encode() if body else None
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", content, headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, http.client.HTTPException):
        return None


def grpc_status(port, method, token=None):
    """The status of a gRPC call with an empty message, ``OK`` for an answer."""
    metadata = [("authorization", f"Bearer {token}")] if token else None
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(f"/ray.rpc.{method}", lambda message: message, lambda message: message)
        try:
            call(b"", timeout=20, metadata=metadata)
        except grpc.RpcError as error:
            return error.code().name
    return "OK"


def as_nobody(**asked):
    """The answers of `main` in a process of another user."""
    run = subprocess.run(
        [sys.executable, __file__], input=json.dumps(asked), capture_output=True, text=True, check=False
    )
    assert not run.returncode, run.stderr
    return json.loads(run.stdout)


def main():
    """Reads what to try from the standard input, becomes nobody, and prints what came of it."""
    asked = json.load(sys.stdin)
    with socket.socket() as closed:  # a first call imports modules, which nobody may not be able to read
        closed.bind(("127.0.0.1", 0))
        http_status(closed.getsockname()[1], "/")
        grpc_status(closed.getsockname()[1], "no/No")
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    answers = {
        "ways_in": ways_in(asked["folders"], asked["pids"], asked["secret"]),
        "http": [http_status(*one) for one in asked["http"]],
        "grpc": [grpc_status(*one) for one in asked["grpc"]],
    }
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
