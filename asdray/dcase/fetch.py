"""One file over HTTP: resumed where it was cut, checked, tried again, and never half under its own name.

What has come so far lies in ``<name>.part``, and beside it the server's ETag, so that another call, or
another process after a kill, goes on with the same file or starts over with a new one.
"""

from __future__ import annotations

import email.utils
import hashlib
import os
import random
import re
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from requests.exceptions import ChunkedEncodingError, JSONDecodeError

import asdray
from asdray import store

BLOCK = 1 << 16
"""Bytes that are read at a time."""


class FetchError(Exception):
    """A file that could not be had; the message holds its address and what to do."""


class UnreachableError(FetchError):
    """The server could not be reached or did not do its work, however often it was asked."""


class Stopped(Exception):  # noqa: N818 - nothing is wrong
    """Somebody asked for the end; what has come so far is kept."""


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for.

    Attributes:
        tries: attempts in a row that bring nothing new before a file is given up.
        first: seconds before the second attempt; each further wait is twice as long.
        longest: seconds that no wait exceeds, whatever the server asks for.
        connect: seconds for a connection.
        read: seconds without a byte.
    """

    tries: int = 7
    first: float = 1.0
    longest: float = 120.0
    connect: float = 20.0
    read: float = 30.0

    def wait(self, failures: int, asked: float | None, rng: random.Random) -> float:
        """Seconds to wait after so many failures in a row, no less than the server ``asked`` for.

        Half of it is random, so that files that failed together do not come again together.
        """
        wait = self.first * 2 ** (failures - 1) * rng.uniform(0.5, 1.0)
        return min(self.longest, max(wait, asked or 0.0))


PATIENCE = Patience()


class _Again(Exception):  # noqa: N818 - caught here
    """An attempt that failed in a way that may pass; ``wait``: seconds that the server asked for."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


def new_session() -> requests.Session:
    """A session for `fetch`; it belongs to one thread."""
    session = requests.Session()
    # "identity": sizes, ranges and checksums are those of the file, not of a compressed transfer.
    session.headers.update({"User-Agent": f"asdray/{asdray.__version__}", "Accept-Encoding": "identity"})
    return session


def fetch(
    session: requests.Session,
    url: str,
    path: Path,
    *,
    size: int | None = None,
    checksum: str | None = None,
    patience: Patience = PATIENCE,
    stop: threading.Event | None = None,
    on_bytes: Callable[[int, int | None], None] | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> None:
    """Brings ``url`` to ``path``; does nothing if the right file is there already.

    Args:
        size: bytes that the file must have, where that is known.
        checksum: ``md5:<hex>`` or ``sha256:<hex>``. A file with another one is fetched once more from its
            beginning, since a part may have been of an older file.
        stop: ends the call with `Stopped` when it is set.
        on_bytes: called with (bytes so far, bytes in all if known).
        on_wait: called with why an attempt failed and what happens now.

    Raises:
        FetchError: the server does not have the file, or the file is not the right one.
        UnreachableError: ``patience`` has run out.
        Stopped: ``stop`` was set.
        OSError: the file cannot be written.
    """
    transfer = _Transfer(session, url, path, size, patience, stop or threading.Event(), on_bytes)
    say = on_wait or (lambda _: None)
    if path.exists():
        if not _fault(path, size, checksum):
            return
        path.unlink()
    for last in (False, True):
        transfer.complete(say)
        fault = _fault(transfer.part, size, checksum)
        if not fault:
            break
        transfer.discard()
        if last:
            raise FetchError(f"{url}: {fault}, twice; what came is deleted")
        say(f"{fault}; again from the beginning")
    with open(transfer.part, "rb") as file:
        os.fsync(file.fileno())
    os.replace(transfer.part, path)
    transfer.tag.unlink(missing_ok=True)


def get_json(
    session: requests.Session,
    url: str,
    *,
    patience: Patience = PATIENCE,
    stop: threading.Event | None = None,
) -> Any:
    """The JSON document at ``url``.

    Raises:
        FetchError: it cannot be had, or is none (`UnreachableError`).
        Stopped: ``stop`` was set.
    """

    def attempt() -> Any:
        with session.get(url, timeout=(patience.connect, patience.read)) as response:
            _check_status(response)
            return response.json()

    return _persist(url, attempt, lambda: 0, patience, stop or threading.Event(), lambda _: None)


# ------------------------------------------------------------------------------------------- one transfer


@dataclass
class _Transfer:
    """A file on its way."""

    session: requests.Session
    url: str
    path: Path
    size: int | None
    patience: Patience
    stop: threading.Event
    on_bytes: Callable[[int, int | None], None] | None

    @property
    def part(self) -> Path:
        return self.path.with_name(self.path.name + ".part")

    @property
    def tag(self) -> Path:
        """Holds the ETag of the file that the part is of."""
        return self.path.with_name(self.path.name + ".part.etag")

    def have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.tag.unlink(missing_ok=True)

    def complete(self, say: Callable[[str], None]) -> None:
        """Makes requests until the part is as long as the file."""
        _persist(self.url, self._request, self.have, self.patience, self.stop, say)

    def _request(self) -> None:
        have = self.have()
        if self.size and have >= self.size:
            if have == self.size:
                return
            self.discard()
            have = 0
        headers = {}
        if have:
            headers["Range"] = f"bytes={have}-"
            if self.tag.exists():
                headers["If-Range"] = self.tag.read_text(encoding="ascii", errors="replace")
        timeout = (self.patience.connect, self.patience.read)
        with self.session.get(self.url, headers=headers, stream=True, timeout=timeout) as response:
            if response.status_code == 416:
                if response.headers.get("Content-Range") == f"bytes */{have}":
                    return  # all of it had come, and nobody had looked
                self.discard()
                raise _Again("the file on the server is shorter than what came before")
            _check_status(response)
            start, total = _extent(response)
            if self.size and total not in (None, self.size):
                self.discard()
                raise _Again(f"the server offers {total} bytes, the file should have {self.size}")
            if response.status_code == 206 and start != have:
                self.discard()
                raise _Again(f"the server sent another range (from {start}, not {have})")
            if response.status_code == 200:  # all of it, whatever was asked for
                self._begin(response)
            self._receive(response, start, total)

    def _begin(self, response: requests.Response) -> None:
        """Forgets what came before; notes which file now comes."""
        self.discard()
        tag = response.headers.get("ETag", "")
        if tag.startswith('"'):  # a weak tag does not promise equal bytes
            store.write_text(self.tag, tag)

    def _receive(self, response: requests.Response, start: int, total: int | None) -> None:
        have = start
        self.part.parent.mkdir(parents=True, exist_ok=True)  # not before there is something to put there
        # Unbuffered: what was counted is in the file, whatever happens to this process.
        with open(self.part, "ab", buffering=0) as file:
            for block in response.iter_content(BLOCK):
                if self.stop.is_set():
                    raise Stopped
                file.write(block)
                have += len(block)
                if self.on_bytes:
                    self.on_bytes(have, total)
        if total is not None and have != total:
            raise _Again(f"cut after {have} of {total} bytes")


def _persist(
    url: str,
    attempt: Callable[[], Any],
    reached: Callable[[], int],
    patience: Patience,
    stop: threading.Event,
    say: Callable[[str], None],
) -> Any:
    """Calls ``attempt`` until it succeeds or ``patience.tries`` calls in a row got no further."""
    rng = random.Random(zlib.crc32(url.encode()))
    failures, best = 0, reached()
    while True:
        if stop.is_set():
            raise Stopped
        try:
            return attempt()
        except _Again as error:
            why, asked = str(error), error.wait
        except ChunkedEncodingError:
            # The innermost reason is that of a parser which found half a line or half a block.
            why, asked = "the connection was cut", None
        except (requests.ConnectionError, requests.Timeout) as error:
            why, asked = _plain(error), None
        except JSONDecodeError:
            why, asked = "the answer is no JSON", None
        except requests.RequestException as error:
            raise FetchError(f"{url}: {error}") from None
        # A server that cuts every connection still brings the file, piece by piece.
        if reached() > best:
            failures, best = 0, reached()
        failures += 1
        if failures >= patience.tries:
            raise UnreachableError(f"{url}: {why}; given up after {failures} attempts without progress")
        wait = patience.wait(failures, asked, rng)
        say(f"{why}; again in {wait:.0f} s")
        stop.wait(wait)


def _check_status(response: requests.Response) -> None:
    """Raises `_Again` for what may pass, `FetchError` for what will not."""
    code = response.status_code
    if code in (200, 206):
        return
    why = f"the server answers {code} {response.reason}"
    if code in (408, 425, 429) or code >= 500:
        raise _Again(why, _retry_after(response))
    raise FetchError(f"{response.url}: {why}")


def _retry_after(response: requests.Response) -> float | None:
    """Seconds that the server asks to wait: ``Retry-After`` is a number of them, or a date."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    date = email.utils.parsedate_tz(text)
    return None if date is None else email.utils.mktime_tz(date) - time.time()


def _extent(response: requests.Response) -> tuple[int, int | None]:
    """(first byte, bytes of the whole file or None) of what the response brings."""
    if response.status_code == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if match is None:
            return -1, None
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() and "Content-Encoding" not in response.headers else None


def _plain(error: BaseException) -> str:
    """The innermost reason, without the layers that report it."""
    while error.__context__ is not None:
        error = error.__context__
    return f"{type(error).__name__}: {error}"


# ------------------------------------------------------------------------------------------------- checks


def _fault(path: Path, size: int | None, checksum: str | None) -> str:
    """What is wrong with a file that came completely, or ``""``."""
    found = path.stat().st_size
    if size is not None and found != size:
        return f"it has {found} bytes, not {size}"
    if checksum is not None and (digest := digest_of(path, checksum)) != checksum:
        return f"it has the wrong checksum ({digest}, not {checksum})"
    return ""


def digest_of(path: Path, like: str) -> str:
    """The checksum of a file, of the same kind as ``like`` (``md5:...``, ``sha256:...``)."""
    kind = like.partition(":")[0]
    with open(path, "rb") as file:
        return f"{kind}:{hashlib.file_digest(file, kind).hexdigest()}"
