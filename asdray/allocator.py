"""Settings of glibc's memory allocator, for speed and memory; no effect on results or other C libraries."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8  # of <malloc.h>


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None


def keep_memory() -> None:
    """Makes glibc reuse freed blocks of any size instead of returning the memory to the system.

    By default every block of more than 32 MiB is a separate mapping: a training step maps, faults in, zeroes
    and unmaps gigabytes. The setting holds for the main thread; other threads take large blocks from other
    arenas unless the process was started with ``MALLOC_ARENA_MAX=1``.
    """
    if libc := _glibc():
        libc.mallopt(_TRIM_THRESHOLD, -1)
        if not libc.mallopt(_MMAP_THRESHOLD, 1 << 30):
            libc.mallopt(_MMAP_MAX, 0)  # older versions refuse a threshold of 1 GiB
        share_heap()


def share_heap() -> None:
    """Makes all threads share one heap; has an effect only before the first thread starts.

    By default each of dozens of threads has a heap, and some free megabytes stay in each.
    """
    if libc := _glibc():
        libc.mallopt(_ARENA_MAX, 1)


def give_back() -> None:
    """Returns freed memory to the system; by itself glibc keeps all free memory below a block in use."""
    if libc := _glibc():
        libc.malloc_trim(0)
