"""Folders that appear on disk whole or not at all, and the lock that keeps a second writer out."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import shutil
import socket
import sys
import time
from pathlib import Path

# Errors that say that the disk, not the program, is at its end: full, over quota, file too large, read-only, failing.
STORAGE_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_NO_EXCHANGE = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EXDEV, errno.EPERM})


class LockHeldError(Exception):
    """Another process holds a lock; ``holder`` says which, as ``process PID on HOST``."""

    def __init__(self, holder: str) -> None:
        super().__init__(f"held by {holder}")
        self.holder = holder


class Lock:
    """An exclusive lock on a file that the kernel drops when its process dies, however it dies.

    The file names the holder for people; the lock itself is ``flock``, so the file of a dead process is taken over
    without anyone having to judge whether a process id is still the same process.

    Raises:
        LockHeldError: From ``acquire``, if another process (or another ``Lock`` of this one) holds it.
        OSError: If the file cannot be made or its file system has no locks.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def is_held(self) -> bool:
        return self._descriptor is not None

    def acquire(self, wait: bool = False) -> None:
        """Take the lock; where another holds it, ``wait`` for it or raise ``LockHeldError``."""
        operation = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
        descriptor = self._descriptor
        while descriptor is None:
            descriptor = self._claim(operation)
        self._descriptor = descriptor
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        except OSError:
            self.release()
            raise

    def _claim(self, operation: int) -> int | None:
        """Lock the file; None if the holder before us deleted it between our open and our lock."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        is_ours = False
        try:
            fcntl.flock(descriptor, operation)
            is_ours = _is_file_at(descriptor, self.path)
        except BlockingIOError:
            raise LockHeldError(_holder(descriptor)) from None
        finally:
            if not is_ours:
                os.close(descriptor)
        return descriptor if is_ours else None

    def release(self) -> None:
        """Give the lock back and delete its file."""
        if self._descriptor is not None:
            # Deleted while still held, so that nobody can lock a file that is about to go.
            if _is_file_at(self._descriptor, self.path):
                self.path.unlink()
            os.close(self._descriptor)
            self._descriptor = None


def _is_file_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> str:
    # The holder writes its name just after it has the lock.
    for _ in range(20):
        name = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
        if name:
            return name
        time.sleep(0.01)
    return "a process that has not named itself"


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to a new file and wait until it is on the disk."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until ``folder``, its folders and its files are on the disk; what was written late fails here."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            _sync(Path(place, name))
        _sync(Path(place))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder; their files were synced one by one.
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def publish(folder: Path, target: Path) -> None:
    """Give the finished ``folder`` the name ``target`` in one step; what stood there is then deleted.

    Where the file system cannot exchange two names, an old ``target`` is moved away first: a kill between the two
    steps leaves no ``target``, never half of one.

    Raises:
        OSError: If the disk refuses; ``target`` is then as it was.
    """
    sync_folder(folder)
    if target.exists():
        if not _exchange(folder, target):
            old = folder.with_name(folder.name + "-old")
            os.rename(target, old)
            try:
                os.rename(folder, target)
            except OSError:
                os.rename(old, target)
                raise
            folder = old
        _sync(target.parent)
        shutil.rmtree(folder, ignore_errors=True)
    else:
        os.rename(folder, target)
        _sync(target.parent)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step; False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(second))


def partial_folder(target: Path) -> Path:
    """The hidden folder beside ``target`` in which this process builds it."""
    return target.with_name(f".partial-{target.name}-{os.getpid()}")


def sweep(target: Path) -> None:
    """Delete what dead writers of ``target`` left beside it; only for the holder of its lock."""
    remains = re.compile(rf"\.partial-{re.escape(target.name)}-\d+(-old)?")
    for entry in target.parent.iterdir():
        if remains.fullmatch(entry.name):
            shutil.rmtree(entry, ignore_errors=True)


def storage_error(error: BaseException | None) -> OSError | None:
    """The error of the disk that ``error`` is, or that caused it; None if there is none."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in STORAGE_ERRNOS:
            return error
        error = error.__cause__ or error.__context__
    return None
