"""Programs on a pseudo-terminal, as a person has them."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import subprocess
import sys
import termios
import time


def in_terminal(*args, **environment):
    """Python with ``args`` on a pseudo-terminal of its own, whose Ctrl-C reaches it: process, terminal."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *map(str, args)],
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        env={**os.environ, "TERM": "xterm", "COLUMNS": "150", **environment},
    )  # fmt: skip
    os.close(slave)
    return process, master


def read_until(master, words, seconds=200):
    """The text of a terminal up to ``words``; None: up to the end."""
    shown = ""
    end = time.monotonic() + seconds
    while words is None or words not in shown:
        ready, _, _ = select.select([master], [], [], max(0, end - time.monotonic()))
        assert ready, f"no {words!r} in {shown!r}"
        try:
            shown += os.read(master, 4096).decode(errors="replace")
        except OSError:  # the other end is closed
            assert words is None, shown
            break
    return shown
