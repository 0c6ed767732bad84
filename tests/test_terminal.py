"""The progress line, and exit codes with one line that says why."""
import io
import sys

import pytest
import torch

import infer
import train
from pix2pix import terminal
from tests.helpers import raising, run


def test_the_progress_line_counts_and_leaves_nothing_behind(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(terminal.progress("abc", 3, "gan 1/2")) == list("abc")
    lines = capsys.readouterr().err.split("\r")
    assert lines == ["", "gan 1/2: 1/3", "gan 1/2: 2/3", "gan 1/2: 3/3", " " * 79, ""]


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


# Odd streams: Windows, programs without a console, services


PROGRAMS = [
    (infer, ["家族.png", "out.png"], "error: \\u5bb6\\u65cf.png: no such file\n"),
    (train, ["--data", "été 家族", "--no-pretrained", "--device", "cpu"],
     "error: --data été \\u5bb6\\u65cf: no such folder, and no set of that name "
     "(groups, coco, demo)\n")
]


def print_on_windows(patch):
    """Make both streams those of a Western Windows console, and return them."""
    streams = [io.TextIOWrapper(io.BytesIO(), "cp1252", newline="\n") for _ in range(2)]
    patch.setattr(sys, "stdout", streams[0])
    patch.setattr(sys, "stderr", streams[1])
    return streams


def shown(stream):
    stream.flush()
    return stream.buffer.getvalue().decode("cp1252")


@pytest.mark.parametrize("program, arguments, line", PROGRAMS)
def test_a_name_that_a_console_cannot_show_is_escaped(
    work, monkeypatch, program, arguments, line
):
    _, stderr = print_on_windows(monkeypatch)
    assert run(program, *arguments) == 1
    assert shown(stderr) == line


def test_results_that_a_console_cannot_show_are_escaped_too(monkeypatch):
    stdout, stderr = print_on_windows(monkeypatch)
    assert terminal.run_program(lambda argv: print("été 家族") or 0, [], "", "") == 0
    assert shown(stdout) == "été \\u5bb6\\u65cf\n" and shown(stderr) == ""


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [None, closed()], ids=["none", "closed"])
@pytest.mark.parametrize("names", [["stdout"], ["stderr"], ["stdout", "stderr"]], ids="+".join)
@pytest.mark.parametrize("program, arguments, line", PROGRAMS)
def test_a_program_without_a_console_ends_as_ever(
    work, monkeypatch, program, arguments, line, names, stream
):
    for name in names:
        monkeypatch.setattr(sys, name, stream)
    assert run(program, *arguments) == 1


@pytest.mark.parametrize("stream", [None, closed()], ids=["none", "closed"])
def test_without_a_console_there_is_no_progress_line_and_no_result_is_lost(monkeypatch, stream):
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    items = []

    def program(argv):
        items.extend(terminal.progress("abc", 3, "photo"))
        print("done")
        return 0

    assert terminal.run_program(program, [], "", "") == 0 and items == list("abc")
