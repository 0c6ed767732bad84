"""The progress line, and exit codes with one line that says why."""
import sys

import pytest
import torch

from pix2pix import terminal
from tests.helpers import Clock, raising


def test_the_progress_line_tells_the_time_left_and_leaves_nothing_behind(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(terminal.time, "monotonic", Clock(tick=1).monotonic)
    assert list(terminal.progress("abc", 3, "epoch 1/2: batch")) == list("abc")
    *lines, last = capsys.readouterr().err.split("\r")
    assert lines[1] == "epoch 1/2: batch 1/3, 00:00:02 left\033[K"
    assert last == "\033[K"


def test_there_is_no_progress_line_without_a_terminal(capsys):
    assert list(terminal.progress(range(3), 3, "photo")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def run_and_raise(error):
    """The exit code of a program that raises this."""
    return terminal.run_program(raising(error), [], "go on", "buy some")


FULL_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")
]


@pytest.mark.parametrize(
    "error, code, line",
    [
        (terminal.UserError("no such set"), 1, "error: no such set"),
        (terminal.UsageError("--size 3"), 2, "error: --size 3"),
        (OSError(28, "No space left"), 1, "error: [Errno 28] No space left"),
        (KeyboardInterrupt(), 130, "interrupted: go on"),
        *((error, 1, "error: out of memory: buy some") for error in FULL_MEMORY)
    ]
)
def test_what_a_person_can_fix_is_one_line_and_an_exit_code(capsys, error, code, line):
    assert run_and_raise(error) == code
    assert capsys.readouterr().err == line + "\n"


def test_a_fault_of_the_program_is_not_hidden():
    with pytest.raises(RuntimeError, match="shapes"):
        run_and_raise(RuntimeError("shapes do not match"))
