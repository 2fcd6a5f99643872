"""Headers of wav files, read without decoding the audio.

Only audio of the challenge is accepted: RIFF/WAVE, 16-bit PCM (also spelt WAVE_FORMAT_EXTENSIBLE). Lengths
are samples per channel, sizes are bytes, times are nanoseconds.

>>> import tempfile, wave
>>> from asdray.dcase.wav import read_header
>>> with tempfile.TemporaryDirectory() as folder:
...     with wave.open(f"{folder}/a.wav", "wb") as file:
...         file.setparams((1, 2, 16000, 0, "NONE", None))
...         file.writeframes(bytes(2 * 16000))
...     read_header(f"{folder}/a.wav").n_samples
16000
"""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path
from typing import NamedTuple

from asdray.regular import open_regular

_BLOCK = 1024
"""Bytes of the first read; the headers in use end after 44 to a few hundred."""

_PCM, _EXTENSIBLE = 1, 0xFFFE

_UNKNOWN_LENGTH = 0xFFFFFFFF
"""Length of the samples in the header of a stream; FFmpeg writes so into a pipe."""


class WavInfo(NamedTuple):
    """Header and file facts of one wav.

    Attributes:
        sample_rate: Hz.
        channels: number of channels.
        n_samples: frames, i.e. samples per channel.
        size: bytes of the file.
        mtime_ns: time of the last change in nanoseconds.
    """

    sample_rate: int
    channels: int
    n_samples: int
    size: int
    mtime_ns: int


def read_header(path: str | Path) -> WavInfo:
    """The header of the wav at ``path``; thousands of files a second.

    Raises:
        ValueError: unreadable, empty, not a wav, not 16-bit PCM, no samples, or shorter than its header
            says. The message begins with the path.
    """
    try:
        with open_regular(path, buffered=False) as file:
            fd = file.fileno()
            stat = os.fstat(fd)
            form = _parse_header(fd, os.pread(fd, _BLOCK, 0), stat.st_size)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    except struct.error:
        raise ValueError(f"{path}: is truncated (it became shorter while it was read)") from None
    if abs(stat.st_mtime_ns) >= 2**63:
        raise ValueError(f"{path}: has a time of change that no manifest can hold: run `touch` on it")
    return WavInfo(*form, stat.st_size, stat.st_mtime_ns)


def _parse_header(fd: int, block: bytes, size: int) -> tuple[int, int, int]:
    """(sample rate, channels, frames); ValueError without the path."""
    if size == 0:
        raise ValueError("is empty (0 bytes)")
    if block[:4] != b"RIFF" or block[8:12] != b"WAVE":
        raise ValueError(f"is not a wav file ({_other_kind(block)})")

    def read(offset: int, length: int) -> bytes:
        if offset + length <= len(block):
            return block[offset : offset + length]
        return os.pread(fd, length, offset)

    form: tuple[int, int, int] | None = None  # sample rate, channels, bytes per frame
    offset = 12
    while offset + 8 <= size:
        name, length = struct.unpack("<4sI", read(offset, 8))
        if name == b"fmt ":
            form = _parse_format(read(offset + 8, min(length, 40)))
        elif name == b"data":
            if form is None:
                raise ValueError("is not a valid wav file (no format before its data)")
            rate, channels, frame = form
            _check_length(length, size - offset - 8, frame)
            return rate, channels, length // frame
        offset += 8 + length + length % 2  # chunks are padded to even lengths
    raise ValueError("is truncated (no audio data behind its header)")


def _other_kind(block: bytes) -> str:
    """The kind of a file that begins with ``block``, as far as people get such files in place of a wav."""
    if block.startswith(b"version https://git-lfs"):
        return "but a pointer of Git LFS: run `git lfs pull` where the clips are from"
    if re.match(rb"\s*<(!doctype|html)", block, re.IGNORECASE):
        return "but a web page: get the clip again"
    return "no RIFF/WAVE header"


def _check_length(length: int, found: int, frame: int) -> None:
    if length == _UNKNOWN_LENGTH and found < length:
        raise ValueError(
            "does not say how long it is, as a program leaves it that writes into a pipe: write a file"
        )
    if length > found:
        raise ValueError(f"is truncated (its header says {length} bytes of audio, {found} are there)")
    if length % frame:
        raise ValueError(f"is damaged ({length} bytes of audio are no whole number of {frame}-byte frames)")
    if length == 0:
        raise ValueError("is empty (no samples)")


def _parse_format(chunk: bytes) -> tuple[int, int, int]:
    """(sample rate, channels, bytes per frame) of a format chunk."""
    if len(chunk) < 16:
        raise ValueError("is not a valid wav file (format chunk too short)")
    tag, channels, rate, _, frame, bits = struct.unpack_from("<HHIIHH", chunk)
    if tag == _EXTENSIBLE and len(chunk) >= 26:
        tag = struct.unpack_from("<H", chunk, 24)[0]  # first field of the sub-format's GUID
    if tag != _PCM or bits != 16:
        raise ValueError(f"is not 16-bit PCM (format {tag}, {bits} bits)")
    if channels == 0 or rate == 0 or frame != 2 * channels:
        raise ValueError(f"is not a valid wav file ({channels} channels, {rate} Hz, {frame}-byte frames)")
    return rate, channels, frame
