"""The user's home folder: ``~`` in paths, and caches of libraries where no home can be written.

A container that runs as a number without an account (``docker -u``) has no home and no user name; another
user's home may be read-only or full. Numba and matplotlib keep files there, and torch asks for the name.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pwd
import shutil
import stat
from pathlib import Path

from asdray import temporary
from asdray.full_disk import is_full

_NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")
"""Variables in which Python's ``getpass.getuser`` looks for the user's name."""


def expanded(path: str | Path) -> Path:
    """The path with the home folder in the place of a leading ``~`` or ``~user``.

    Raises:
        ValueError: there is no such user, or this user has no home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        user = Path(path).parts[0][1:]
        why = f"there is no user {user!r} on this machine" if user else "this user has no home folder"
        raise ValueError(f"{path}: {why}: write the whole path{'' if user else ', or set HOME'}") from None


def settle() -> None:
    """Gives libraries a user name and folders for their caches where this process has none; else nothing.

    What the user has set stays. Child processes inherit the variables.
    """
    if not any(map(os.environ.get, _NAMES)) and not _has_account():
        os.environ["LOGNAME"] = f"user{os.getuid()}"
    home = Path(os.path.expanduser("~"))
    caches = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    needed = {"NUMBA_CACHE_DIR": [caches], "MPLCONFIGDIR": [caches, settings]}
    lacking = [
        name
        for name, folders in needed.items()
        if not os.environ.get(name) and not all(f.is_absolute() and can_be_written(f) for f in folders)
    ]
    if lacking and (place := _private_folder()):
        os.environ.update({name: str(place / name.lower()) for name in lacking})


def can_be_written(folder: Path) -> bool:
    """True if files can be made in ``folder``, or in its nearest parent that exists and has space."""
    with contextlib.suppress(OSError):
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK) and not is_full(existing / "file")
    return False


def _has_account() -> bool:
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        return False
    return True


def private_name() -> str:
    """The name of this user's folder for caches below the folder for temporary files."""
    return f"asdray-caches-{os.getuid()}"


def _private_folder() -> Path | None:
    """This user's folder for caches below the folder for temporary files; None if nothing can be written.

    Caches hold code: a folder that another user has made is not taken, but one that lasts as long as the
    process.
    """
    try:
        above = temporary.place()
        folder = above / private_name()
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
            return folder
        import tempfile

        folder = Path(tempfile.mkdtemp(prefix="asdray-caches-", dir=above))
    except OSError:
        return None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
