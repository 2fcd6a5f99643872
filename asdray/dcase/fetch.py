"""One file over HTTP: resumed after a cut, verified, retried, and never incomplete under its own name.

``fetch`` writes the received bytes to ``<name>.part``, and the server's ETag beside it, so that another call
or process continues with the same file or starts again with a new one. Cut and refused connections, timeouts
and temporary answers (408, 425, 429, 5xx) are retried after growing waits; ``Retry-After`` is obeyed.

Conventions: sizes are bytes, waits are seconds, checksums are ``md5:<hex>`` or ``sha256:<hex>`` of the
file as stored on the server (transfers are not compressed).

>>> import pathlib, tempfile
>>> from asdray.dcase.fetch import digest_of
>>> with tempfile.TemporaryDirectory() as folder:
...     path = pathlib.Path(folder, "empty")
...     path.touch()
...     digest_of(path, "md5:")
'md5:d41d8cd98f00b204e9800998ecf8427e'
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from requests.exceptions import ChunkedEncodingError, JSONDecodeError
from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

import asdray
from asdray import store
from asdray.config.plugin_fault import chain_of
from asdray.dcase.records import PARTIAL
from asdray.regular import open_regular

BLOCK = 1 << 16
"""Bytes per read."""

_TEMPORARY = (408, 425, 429, *range(500, 600))


class FetchError(Exception):
    """A file that cannot be fetched; the message holds the address and the reason."""


class UnreachableError(FetchError):
    """No connection to the server, or no useful answer, in all attempts."""


class Stopped(Exception):  # noqa: N818 - no error
    """The stop event was set; received bytes are kept."""


@dataclass(frozen=True)
class Patience:
    """Limits of attempts and waits.

    Attributes:
        tries: attempts in a row without a new byte before a file is given up.
        first: factor of the waits, which double with each failure.
        longest: upper limit of each wait, also for ``Retry-After``.
        connect: limit of making a connection.
        read: limit of waiting for the next byte.
    """

    tries: int = 7
    first: float = 1.0
    longest: float = 120.0
    connect: float = 20.0
    read: float = 30.0

    def wait(self, failures: int, asked: float) -> float:
        """Seconds after so many failures in a row, no less than the server ``asked`` for.

        Half of the wait is random, so that files that failed together are not retried together.
        """
        wait = self.first * 2 ** (failures - 1) * random.uniform(0.5, 1.0)
        return min(self.longest, max(wait, asked))


PATIENCE = Patience()


class _TemporaryFailure(Exception):  # noqa: N818 - caught here
    """An attempt that failed for a temporary reason; ``wait``: seconds that the server asks for."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


class Session(requests.Session):
    """Requests of one thread, repeated with ``patience``.

    Args:
        stop: ends a call with `Stopped` when set.
        on_wait: called with the reason of a failure and the wait before the next attempt.
    """

    def __init__(
        self,
        patience: Patience = PATIENCE,
        stop: threading.Event | None = None,
        on_wait: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__()
        self.patience, self.stop = patience, stop or threading.Event()
        self.on_wait = on_wait or (lambda _: None)
        # "identity": sizes, ranges and checksums are those of the file, not of a compressed transfer.
        self.headers.update({"User-Agent": f"asdray/{asdray.__version__}", "Accept-Encoding": "identity"})

    def open(self, url: str, headers: dict[str, str] | None = None) -> requests.Response:
        """The answer to one GET request, body not read yet: status 200, 206 or 416."""
        timeout = (self.patience.connect, self.patience.read)
        response = self.get(url, headers=headers, stream=True, timeout=timeout)
        if response.status_code in (200, 206, 416):
            return response
        response.close()
        why = f"the server answers {response.status_code} {response.reason}"
        if response.status_code not in _TEMPORARY:
            raise FetchError(f"{response.url}: {why}")
        try:
            wait = Retry().parse_retry_after(response.headers.get("Retry-After", "0"))
        except InvalidHeader:
            wait = 0.0
        raise _TemporaryFailure(why, wait)

    def json_at(self, url: str) -> Any:
        """The JSON document at ``url``; raises `FetchError` if there is none."""

        def attempt() -> Any:
            with self.open(url) as response:
                return response.json()

        return self.persist(url, attempt, lambda: 0)

    def persist(self, url: str, attempt: Callable[[], Any], received: Callable[[], int]) -> Any:
        """Calls ``attempt`` until it succeeds, or fails too often in a row without more bytes ``received``.

        A server that cuts every connection still delivers the file, piece by piece.
        """
        patience, failures, best = self.patience, 0, received()
        while True:
            if self.stop.is_set():
                raise Stopped
            asked = 0.0
            try:
                return attempt()
            except _TemporaryFailure as error:
                why, asked = str(error), error.wait
            except ChunkedEncodingError:
                # The innermost reason is a parser's, which found half a line or half a block.
                why = "the connection was cut"
            except (requests.ConnectionError, requests.Timeout) as error:
                why = _innermost(error)
            except JSONDecodeError:
                why = "the answer is no JSON"
            except requests.RequestException as error:
                raise FetchError(f"{url}: {error}") from None
            if received() > best:
                failures, best = 0, received()
            failures += 1
            if failures >= patience.tries:
                raise UnreachableError(f"{url}: {why}; given up after {failures} attempts without progress")
            wait = patience.wait(failures, asked)
            self.on_wait(f"{why}; again in {wait:.0f} s")
            self.stop.wait(wait)


def fetch(
    session: Session,
    url: str,
    path: Path,
    *,
    size: int | None = None,
    checksum: str | None = None,
    on_bytes: Callable[[int, int | None], None] = lambda done, total: None,
) -> None:
    """Fetches ``url`` to ``path``; does nothing if ``path`` is the right file already.

    Args:
        size: bytes of the file, None if unknown.
        checksum: ``md5:<hex>`` or ``sha256:<hex>``. A file with another checksum is fetched once more from
            the beginning, since a part may stem from an older file.
        on_bytes: called with (bytes so far, bytes in all if known).

    Raises:
        FetchError: the server does not have the file, or sends a wrong file twice.
        UnreachableError: no progress in all attempts.
        Stopped: the session's stop event was set.
        OSError: the file cannot be written.
    """
    if path.exists():
        if not _fault(path, size, checksum):
            return
        path.unlink()
    transfer = _Transfer(session, url, path, size, on_bytes)
    for again in (True, False):
        session.persist(url, transfer.request, transfer.received)
        if not (fault := _fault(transfer.part, size, checksum)):
            break
        transfer.discard()
        if not again:
            raise FetchError(f"{url}: {fault}, twice; what came is deleted")
        session.on_wait(f"{fault}; again from the beginning")
    with open(transfer.part, "rb") as file:
        os.fsync(file.fileno())
    os.replace(transfer.part, path)
    transfer.tag.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------- one transfer


@dataclass
class _Transfer:
    """A file under way: ``part`` holds the received bytes, ``tag`` the ETag of the server's file."""

    session: Session
    url: str
    path: Path
    size: int | None
    on_bytes: Callable[[int, int | None], None]

    def __post_init__(self) -> None:
        self.part, self.tag = (self.path.with_name(self.path.name + ending) for ending in PARTIAL)

    def received(self) -> int:
        """Bytes of the part."""
        return self.part.stat().st_size if self.part.exists() else 0

    def discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.tag.unlink(missing_ok=True)

    def request(self) -> None:
        """One request for the missing bytes."""
        if self.size and self.received() == self.size:
            return
        if self.size and self.received() > self.size:
            self.discard()
        received = self.received()
        headers = {}
        if received:
            headers["Range"] = f"bytes={received}-"
            if self.tag.exists():
                headers["If-Range"] = self.tag.read_text(encoding="ascii", errors="replace")
        with self.session.open(self.url, headers) as response:
            if response.headers.get("Content-Range") == f"bytes */{received}":
                return  # status 416: the part is complete
            start, total = self._check_extent(response, received)
            if response.status_code == 200:  # the whole file, whatever the request
                self.discard()
                tag = response.headers.get("ETag", "")
                if tag.startswith('"'):  # a weak tag does not promise equal bytes
                    store.write_text(self.tag, tag)
            self._receive(response, start, total)

    def _check_extent(self, response: requests.Response, received: int) -> tuple[int, int | None]:
        """(first byte, bytes of the whole file or None) of an answer that continues or replaces the part."""
        start, total = _extent(response)
        if response.status_code == 416:
            fault = "the file on the server is shorter than what came before"
        elif self.size and total not in (None, self.size):
            fault = f"the server offers {total} bytes, the file should have {self.size}"
            if response.status_code == 200:  # another file as a whole: no wait helps
                self.discard()
                raise FetchError(f"{self.url}: {fault}")
        elif response.status_code == 206 and start != received:
            fault = f"the server sent another range (from {start}, not {received})"
        else:
            return start, total
        self.discard()
        raise _TemporaryFailure(fault)

    def _receive(self, response: requests.Response, received: int, total: int | None) -> None:
        self.part.parent.mkdir(parents=True, exist_ok=True)  # not before there are bytes to write
        # Unbuffered: counted bytes are in the file, whatever happens to this process.
        with open(self.part, "ab", buffering=0) as file:
            for block in response.iter_content(BLOCK):
                if self.session.stop.is_set():
                    raise Stopped
                file.write(block)
                received += len(block)
                self.on_bytes(received, total)
        if total is not None and received != total:
            raise _TemporaryFailure(f"cut after {received} of {total} bytes")


def _extent(response: requests.Response) -> tuple[int, int | None]:
    """(first byte, bytes of the whole file or None) of an answer."""
    if response.status_code == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if match is None:
            return -1, None
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() and "Content-Encoding" not in response.headers else None


def _innermost(error: BaseException) -> str:
    """The innermost reason of an error, without the layers that report it."""
    *_, last = chain_of(error)
    return f"{type(last).__name__}: {last}"


# ------------------------------------------------------------------------------------------------- checks


def _fault(path: Path, size: int | None, checksum: str | None) -> str:
    """The fault of a file with all its bytes, or ``""``."""
    found = path.stat().st_size
    if size is not None and found != size:
        return f"it has {found} bytes, not {size}"
    if checksum is not None and (digest := digest_of(path, checksum)) != checksum:
        return f"it has the wrong checksum ({digest}, not {checksum})"
    return ""


def digest_of(path: Path, like: str) -> str:
    """The checksum of a file, of the same kind as ``like`` (``md5:...``, ``sha256:...``)."""
    kind = like.partition(":")[0]
    with open_regular(path) as file:
        return f"{kind}:{hashlib.file_digest(file, kind).hexdigest()}"
