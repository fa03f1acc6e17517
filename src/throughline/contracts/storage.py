"""What the system says when a disk cannot take or give a file, in our grammar."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from throughline.contracts.errors import StorageError

_AGAIN = "free some space and run the same command again; what was finished is kept"
_KINDS = {
    errno.ENOSPC: ("the disk is full", _AGAIN),
    errno.EDQUOT: ("the disk quota is used up", _AGAIN),
    errno.EFBIG: ("the disk takes no file of this size", "raise the limit (ulimit -f), or take another file system"),
    errno.EROFS: ("the disk is read-only", "mount it for writing, or take another folder"),
    errno.EIO: ("the disk fails", "look into the system's log, and take another disk"),
    errno.EACCES: ("permission denied", "give this user the rights to it, or take another folder"),
    errno.EPERM: ("permission denied", "give this user the rights to it, or take another folder"),
}


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turns an `OSError` about a disk into a `StorageError`; others pass.

    Args:
        folder: Where is written, for errors that name no file.

    Raises:
        StorageError: In place of the `OSError`.
    """
    try:
        yield
    except OSError as error:
        found = _storage_error(error, folder)
        if found is None:
            raise
        raise found from error


def full(folder: Path, seen: str) -> StorageError:
    """Returns the error for a disk that has no room left."""
    what, fix = _KINDS[errno.ENOSPC]
    return StorageError(what, where=str(folder), seen=seen, fix=fix)


def _storage_error(error: OSError, folder: Path) -> StorageError | None:
    named = error.filename2 or error.filename
    what, fix = _KINDS.get(error.errno or 0, ("", ""))
    # Without a file the system may have refused a port or a process.
    if not what or (error.errno in (errno.EACCES, errno.EPERM) and not isinstance(named, str | bytes)):
        return None
    where = (named.decode() if isinstance(named, bytes) else named) if isinstance(named, str | bytes) else folder
    return StorageError(what, where=str(where), seen=error.strerror, fix=fix)
