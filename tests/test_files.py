"""Files appear whole or not at all, and what is read from them is data, never a program."""
import errno
import os

import pytest
import torch

from pix2pix import files
from pix2pix.terminal import UserError
from pix2pix.weights import load_saved, save_weights
from tests.helpers import Clock, at_call, raising, stub, watch


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    with files.whole_file(path) as file:
        file.write(b"first")
    with pytest.raises(KeyboardInterrupt), files.whole_file(path) as file:
        file.write(b"second")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"first" and list(tmp_path.iterdir()) == [path]


def test_a_name_may_be_as_long_as_a_disk_allows_and_be_written_twice_at_once(tmp_path):
    path = tmp_path / ("x" * 251 + ".txt")
    with files.whole_file(path) as first:
        first.write(b"first")
        with files.whole_file(path) as second:
            second.write(b"the second")
        assert path.read_bytes() == b"the second"
    assert path.read_bytes() == b"first"


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    """Otherwise a power cut could leave the name with nothing behind it, and the old file gone."""
    path = tmp_path / "a.txt"
    steps = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(number):
        fsync(number)
        steps.append(("on the disk", os.fstat(number).st_ino, os.fstat(number).st_size))

    def spy_replace(part, name):
        steps.append(("named", os.stat(part).st_ino, os.stat(part).st_size))
        replace(part, name)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    files.write(path, b"whole")
    inode = path.stat().st_ino
    assert steps == [("on the disk", inode, 5), ("named", inode, 5)]


@pytest.mark.parametrize("code", ["EINVAL", "ENOTSUP", "ENOSYS", "EPERM", "EACCES", "EBADF"])
def test_a_file_is_written_where_fsync_is_refused(tmp_path, monkeypatch, code):
    """As some network and FUSE file systems do."""
    refusal = OSError(getattr(errno, code), "refused")
    monkeypatch.setattr(os, "fsync", raising(refusal))
    files.write(tmp_path / "a.txt", b"whole")
    assert (tmp_path / "a.txt").read_bytes() == b"whole"


@pytest.mark.parametrize("code", ["ENOSPC", "EDQUOT", "EIO"])
def test_a_disk_that_is_full_or_broken_only_at_fsync_is_an_error(tmp_path, monkeypatch, code):
    monkeypatch.setattr(os, "fsync", raising(OSError(getattr(errno, code), "full")))
    with pytest.raises(OSError, match="full"):
        files.write(tmp_path / "a.txt", b"whole")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def in_use(tmp_path, monkeypatch):
    """A file, the error of whoever replaces it on Windows while another program reads it."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    clock = Clock()
    monkeypatch.setattr(files, "time", clock)
    return path, PermissionError(13, "Access is denied", str(path)), clock


def test_a_file_in_use_is_replaced_a_moment_later(in_use, tmp_path, monkeypatch):
    path, error, clock = in_use
    tries = watch(monkeypatch, os, "replace", before=at_call(1, raising(error)))
    files.write(path, b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]
    assert len(tries) == 2 and 0 < sum(clock.slept) < 10


def test_a_file_that_stays_in_use_stays_as_it_is_and_is_an_error(in_use, tmp_path, monkeypatch):
    path, error, clock = in_use
    monkeypatch.setattr(os, "replace", raising(error))
    with pytest.raises(PermissionError, match="Access is denied"):
        files.write(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    assert sum(clock.slept) < 10


def test_what_was_saved_is_loaded(tmp_path):
    saved = {"kind": "checkpoint", "rows": [{"l1": 0.5}], "G": {"weight": torch.arange(3.0)}}
    save_weights(tmp_path / "deep/checkpoint.pt", saved)
    loaded = load_saved(tmp_path / "deep/checkpoint.pt", "checkpoint")
    assert loaded["rows"] == saved["rows"]
    assert torch.equal(loaded["G"]["weight"], saved["G"]["weight"])


def test_what_a_gpu_saved_is_loaded_without_one(tmp_path, monkeypatch):
    stub(monkeypatch, torch.serialization, "location_tag", result="cuda:7")
    save_weights(tmp_path / "generator.pt", {"kind": "generator", "weight": torch.arange(3.0)})
    loaded = load_saved(tmp_path / "generator.pt", "generator")
    assert torch.equal(loaded["weight"], torch.arange(3.0))


class Trap:
    """Loading this as a pickle calls open(path, "w")."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_file_that_would_run_a_program_is_refused_and_runs_nothing(tmp_path):
    path = tmp_path / "generator.pt"
    torch.save({"kind": "generator", "weights": Trap(tmp_path / "sprung")}, path)
    with pytest.raises(UserError, match="is not a complete generator written by train.py"):
        load_saved(path, "generator")
    assert list(tmp_path.iterdir()) == [path]
    torch.load(path, weights_only=False)
    assert (tmp_path / "sprung").exists(), "the trap is one"
