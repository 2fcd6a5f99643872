"""The C library's memory allocator, where that is glibc; elsewhere nothing happens. Changes no result."""

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
    """Asks glibc to reuse freed memory instead of giving it back, whatever its size.

    By default a block of more than 32 MiB is a mapping of its own: every step of a training maps, faults in,
    zeroes and unmaps gigabytes. It works for the main thread; other threads take their large blocks from
    elsewhere unless the process was started with ``MALLOC_ARENA_MAX=1``.
    """
    if libc := _glibc():
        libc.mallopt(_TRIM_THRESHOLD, -1)
        if not libc.mallopt(_MMAP_THRESHOLD, 1 << 30):
            libc.mallopt(_MMAP_MAX, 0)  # older ones take no threshold as large
        share_heap()


def share_heap() -> None:
    """Has all threads take their memory from one heap, where none was started yet: glibc asks once.

    By default each of dozens has one of its own, and in each some megabytes stay that are free.
    """
    if libc := _glibc():
        libc.mallopt(_ARENA_MAX, 1)


def give_back() -> None:
    """Returns freed memory to the system: glibc by itself keeps what lies below something still in use."""
    if libc := _glibc():
        libc.malloc_trim(0)
