"""The script that Ray starts for each worker, in place of its own ``setup_worker.py``.

It has the fork server (`asdray.sweep.fork_server`) make the worker, and ends. Where the server does not
answer, or a worker has needs that a fork cannot meet, Ray's own script takes over. The script imports as
little as it can: it runs once per worker.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any

SERVER = "ASDRAY_FORK_SERVER"
"""Variable with the path of the fork server's socket."""

OWN_SCRIPT = "ASDRAY_SETUP_WORKER"
"""Variable with the path of Ray's own script."""

PATIENCE = 45.0
"""Seconds for a server that still imports; Ray waits 60 seconds for a worker."""

LANGUAGE, CONTEXT = "--language", "--serialized-runtime-env-context"
"""Options of Ray's own script: the language of the worker, and its runtime environment as JSON."""


def request_of(
    arguments: Sequence[str], environment: Mapping[str, str], folder: str
) -> dict[str, Any] | None:
    """The server's request for a worker; None if Ray's own script must start it.

    Args:
        arguments: of Ray's own script: the worker's script and its options, `LANGUAGE` and `CONTEXT`.
        environment: variables of the worker, without those of its runtime environment.
        folder: working directory of the worker.

    Returns:
        ``arguments`` of the worker's script, ``environment``, ``folder``, and ``trains``: True for Ray Tune's
        workers. Tune gives its workers variables of their own, which asdray's tasks do not have.
    """
    own = {LANGUAGE: "PYTHON", CONTEXT: "{}"}
    rest = []
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name in own:
            own[name] = value
        else:
            rest.append(argument)
    context = json.loads(own[CONTEXT])
    variables = context.pop("env_vars", None) or {}
    other = {name for name, value in context.items() if value and value != sys.executable}
    # Ray would put the values of other variables in place of a dollar and a name.
    if own[LANGUAGE] != "PYTHON" or other or any("$" in value for value in variables.values()):
        return None
    return {
        "arguments": rest,
        "environment": {**environment, **variables},
        "folder": folder,
        "trains": bool(variables),
    }


def is_forked(request: Mapping[str, Any], server: str) -> bool:
    """True if the fork server at the socket ``server`` has made the worker, with this process's output."""
    text = json.dumps(request).encode()
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(server)
            socket.send_fds(connection, [len(text).to_bytes(4, "big")], [0, 1, 2])
            connection.sendall(text)
            return connection.recv(1) == b"1"
    except OSError:
        return False


def main() -> None:
    """Has the worker forked, or becomes Ray's own script."""
    request = request_of(sys.argv[1:], os.environ, os.getcwd())
    if request is None or not is_forked(request, os.environ[SERVER]):
        os.execv(sys.executable, [sys.executable, os.environ[OWN_SCRIPT], *sys.argv[1:]])


if __name__ == "__main__":
    main()
