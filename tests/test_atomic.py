"""Folders that appear whole, and the lock that keeps a second writer out."""

import errno
import fcntl
import os

import pytest

from svg import atomic
from svg.atomic import Lock, LockHeldError, publish, storage_error, write_bytes


def names(root):
    return sorted(path.name for path in root.iterdir())


def make(folder, *files):
    folder.mkdir()
    for file in files:
        (folder / file).touch()
    return folder


def test_one_lock_at_a_time_and_its_file_goes_with_it(tmp_path):
    first, second = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    first.acquire()
    assert first.is_held and not second.is_held
    with pytest.raises(LockHeldError, match=f"process {os.getpid()} on"):
        second.acquire()
    first.release()
    assert names(tmp_path) == []
    second.acquire()
    second.release()
    assert names(tmp_path) == []


def test_a_file_that_its_holder_deletes_just_before_we_lock_it_is_not_a_lock(tmp_path, monkeypatch):
    real, calls = fcntl.flock, []

    def late(descriptor, operation):
        calls.append(operation)
        if len(calls) == 1:
            (tmp_path / "lock").unlink()
        return real(descriptor, operation)

    monkeypatch.setattr(atomic.fcntl, "flock", late)
    lock = Lock(tmp_path / "lock")
    lock.acquire()
    assert len(calls) == 2
    with pytest.raises(LockHeldError):
        Lock(tmp_path / "lock").acquire()
    lock.release()


def test_a_lock_file_that_a_person_deleted_and_another_made_is_left_to_the_other(tmp_path):
    first, second = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    first.acquire()
    (tmp_path / "lock").unlink()
    second.acquire()
    first.release()
    assert names(tmp_path) == ["lock"]
    second.release()


def test_a_lock_that_cannot_name_its_holder_is_given_back(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic.os, "pwrite", full)
    lock = Lock(tmp_path / "lock")
    with pytest.raises(OSError, match="No space"):
        lock.acquire()
    assert not lock.is_held and names(tmp_path) == []


def test_names_are_exchanged_in_one_step_on_this_system(tmp_path):
    first, second = make(tmp_path / "a", "in a"), make(tmp_path / "b", "in b")
    if not atomic._exchange(first, second):
        pytest.skip("this file system cannot exchange two names")
    assert names(first) == ["in b"] and names(second) == ["in a"]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_publishing_replaces_what_stood_there(tmp_path, monkeypatch, can_exchange):
    if not can_exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)
    publish(make(tmp_path / ".partial-a-1", "new"), make(tmp_path / "a", "old"))
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == ["new"]


def test_a_publication_that_fails_halfway_puts_the_old_folder_back(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)
    real, calls = os.rename, []

    def second_fails(old, new):
        calls.append(new)
        if len(calls) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(old, new)

    monkeypatch.setattr(atomic.os, "rename", second_fails)
    with pytest.raises(OSError, match="Input/output"):
        publish(make(tmp_path / ".partial-a-1", "new"), make(tmp_path / "a", "old"))
    assert names(tmp_path / "a") == ["old"]


def test_everything_is_synced_before_it_gets_its_name(tmp_path, monkeypatch):
    folder = make(tmp_path / ".partial-a-1", "one")
    make(folder / "deep", "two")
    real, events = os.rename, []
    monkeypatch.setattr(
        atomic.os, "fsync", lambda descriptor: events.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    )
    monkeypatch.setattr(atomic.os, "rename", lambda old, new: (events.append("rename"), real(old, new)))
    publish(folder, tmp_path / "a")
    before = events[: events.index("rename")]
    assert {os.path.relpath(path, folder) for path in before} == {".", "one", "deep", "deep/two"}
    assert events[events.index("rename") + 1 :] == [str(tmp_path)]


def test_a_file_is_never_written_over(tmp_path):
    write_bytes(tmp_path / "file", b"first")
    with pytest.raises(FileExistsError):
        write_bytes(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first"


def test_the_disks_error_is_found_behind_the_one_it_caused():
    full = OSError(errno.ENOSPC, "full")
    effect = RuntimeError("the encoder gave up")
    effect.__context__ = full
    assert storage_error(effect) is full
    assert storage_error(full) is full
    assert storage_error(FileNotFoundError(errno.ENOENT, "missing")) is None
    assert storage_error(None) is None
