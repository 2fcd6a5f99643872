"""Links: those that another user may have planted where this user writes, and file systems without any."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_NO_LINKS = (
    *(errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPROTO, errno.EINVAL),
    *(errno.EXDEV, errno.EMLINK),  # of hard links
)


def refuse_planted(folder: Path) -> None:
    """Refuses to write below ``folder`` if another user may have planted a link on the way, or in the folder.

    The rule is Linux's own for /tmp (``fs.protected_symlinks``), for every folder: a link is followed if it
    belongs to this user, to root, or to the owner of the folder that it lies in.

    Raises:
        ValueError: a planted link, with its owner.
    """
    folder = folder.absolute()
    for path in (*reversed(folder.parents), folder):
        _refuse(path)
    if folder.is_dir():
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_symlink():
                    _refuse(Path(entry.path))


def has_no_links(error: OSError, folder: Path) -> bool:
    """True if the error of making a link in ``folder`` says that its file system has no such links.

    exFAT says EPERM, SMB EOPNOTSUPP, and VirtualBox's shared folders EPROTO, or EROFS though they are not.
    """
    return error.errno in _NO_LINKS or (error.errno == errno.EROFS and os.access(folder, os.W_OK))


def _refuse(path: Path) -> None:
    try:
        found = path.lstat()
    except OSError:
        return  # absent, or not for this user to see
    if stat.S_ISLNK(found.st_mode) and found.st_uid not in (os.geteuid(), 0, path.parent.stat().st_uid):
        raise ValueError(
            f"{path} is a link of user {found.st_uid} to {os.readlink(path)}: another user may have made it "
            "to have files of yours overwritten; delete it, or make it yourself"
        )
