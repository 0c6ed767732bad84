"""The progress line, and exit codes with one line that says why."""
import sys

import pytest
import torch

from pix2pix import terminal


def test_the_progress_line_tells_the_time_left_and_leaves_nothing_behind(capsys, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
    assert list(terminal.progress("abc", 3, "epoch 1/2: batch")) == list("abc")
    *lines, last = capsys.readouterr().err.split("\r")
    assert lines[1] == "epoch 1/2: batch 1/3, 00:00:02 left\033[K"
    assert last == "\033[K"


def test_there_is_no_progress_line_without_a_terminal(capsys):
    assert list(terminal.progress(range(3), 3, "photo")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "error, code, line",
    [
        (terminal.UserError("no such set"), 1, "error: no such set"),
        (terminal.UsageError("--size 3"), 2, "error: --size 3"),
        (OSError(28, "No space left"), 1, "error: [Errno 28] No space left"),
        (KeyboardInterrupt(), 130, "interrupted: go on"),
        (MemoryError(), 1, "error: out of memory: buy some"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."), 1,
         "error: out of memory: buy some"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate "
                      "memory"), 1, "error: out of memory: buy some"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
         1, "error: out of memory: buy some")
    ]
)
def test_what_a_person_can_mend_is_one_line_and_an_exit_code(capsys, error, code, line):
    def fail(argv):
        raise error

    assert terminal.run_program(fail, [], "go on", "buy some") == code
    assert capsys.readouterr().err == line + "\n"


def test_a_fault_of_the_program_is_not_hidden():
    def fail(argv):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        terminal.run_program(fail, [], "go on", "buy some")
