"""The progress line, and exit codes with one line that says why."""
import io
import os
import sys
from types import SimpleNamespace

import pytest
import torch

import infer
import train
from pix2pix import data, terminal
from tests.helpers import Clock, error_line, raising, run, stub, watch


ERASED = "\r" + " " * 79 + "\r"


def on_a_terminal(patch):
    """Make stderr a terminal, and return the clock that the progress line looks at."""
    clock = Clock()
    patch.setattr(terminal, "time", clock)
    patch.setattr(sys.stderr, "isatty", lambda: True)
    return clock


def watch_progress(capsys, patch, seconds, label="photo", **options):
    """What the line said after each item, which took so many seconds each."""
    clock = on_a_terminal(patch)
    lines = []
    for _ in terminal.progress(seconds, len(seconds), label, **options):
        lines.append(capsys.readouterr().err)
        clock.sleep(seconds[len(lines) - 1])
    lines.append(capsys.readouterr().err)
    assert lines[0] == "" and lines[-1].endswith(ERASED)
    lines[-1] = lines[-1].removesuffix(ERASED)
    for line in filter(None, lines):
        assert line[0] == "\r" and len(line) == 80, "a shorter line erases a longer one"
    return [line[1:].rstrip() for line in lines[1:]]


def test_the_progress_line_counts_and_tells_the_time_left(capsys, monkeypatch):
    assert watch_progress(capsys, monkeypatch, [1, 1, 4, 2]) == [
        "photo: 1/4, 3 s left", "photo: 2/4, 2 s left", "photo: 3/4, 2 s left",
        "photo: 4/4, 0 s left"
    ]


def test_the_progress_line_of_a_training_tells_its_speed(capsys, monkeypatch):
    lines = watch_progress(capsys, monkeypatch, [0.25] * 130, "gan 21/120", pictures=16)
    assert lines[36] == "gan 21/120: 37/130, 64.0 pictures/s, 23 s left"


@pytest.mark.parametrize("seconds, left", [(99, "99 s"), (100, "2 min"), (5999, "100 min"),
                                           (6000, "2 h"), (14 * 3600, "14 h")])
def test_the_time_left_is_in_a_unit_that_fits(capsys, monkeypatch, seconds, left):
    assert watch_progress(capsys, monkeypatch, [seconds, 1])[0] == f"photo: 1/2, {left} left"


def test_the_progress_line_changes_at_most_ten_times_a_second(capsys, monkeypatch):
    lines = watch_progress(capsys, monkeypatch, [1 / 64] * 640)
    assert 80 <= len(list(filter(None, lines))) <= 100


def test_photos_that_took_no_time_are_forgotten_after_a_minute(capsys, monkeypatch):
    """Those that were already there: 20,000 in a second."""
    lines = watch_progress(capsys, monkeypatch, [1 / 20_000] * 20_000 + [5] * 120)
    assert lines[20_000 + 60 - 1] == "photo: 20060/20120, 5 min left"


def test_the_progress_line_fits_79_columns(capsys, monkeypatch):
    lines = watch_progress(capsys, monkeypatch, [1, 1], "long" * 30)
    assert lines == [("long" * 30)[:79]] * 2


def test_other_processes_of_torchrun_leave_the_line_alone(capsys, monkeypatch):
    clock = on_a_terminal(monkeypatch)
    monkeypatch.setenv("RANK", "1")
    for _ in terminal.progress("abc", 3, "photo"):
        clock.sleep(1)
    assert capsys.readouterr().err == ""


def test_a_training_tells_the_pictures_of_all_processes(monkeypatch):
    shown = watch(monkeypatch, data, "progress")
    monkeypatch.setattr(data, "processes", lambda: (1, 2))
    images = torch.zeros(12, 3, 8, 8, dtype=torch.uint8)
    photos = data.Photos(images, torch.arange(12), torch.arange(0), "fingerprint")
    for batch_size in (3, 16):
        config = SimpleNamespace(seed=0, batch_size=batch_size)
        list(data.batches(photos, config, 1, torch.device("cpu"), "gan 1/1"))
    assert [(call["total"], call["pictures"]) for call in shown] == [(2, 6), (1, 12)]


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


def test_a_warning_replaces_the_progress_line(capsys, monkeypatch):
    on_a_terminal(monkeypatch)
    terminal.warn("a.jpg", "odd")
    assert capsys.readouterr().err == ERASED + "warning: a.jpg: odd\n"


@pytest.mark.parametrize("name, shown", [
    ("a\nb\r.jpg", "a\\nb\\r.jpg"), ("\x1b[2J.jpg", "\\x1b[2J.jpg"), ("\x85\u2028", "\\x85\\u2028"),
    ("été 家族\u202f\\n.jpg", "été 家族\u202f\\n.jpg")
])
def test_control_characters_in_names_stay_on_their_line(capsys, name, shown):
    assert run_and_raise(terminal.UserError(f"{name}: no such file")) == 1
    terminal.warn(name, "odd")
    assert capsys.readouterr().err == f"error: {shown}: no such file\nwarning: {shown}: odd\n"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_an_album_with_a_newline_in_a_name_gets_one_line_for_each_error(work, monkeypatch, capsys):
    stub(monkeypatch, infer, "load_generator")
    (work / "album").mkdir()
    (work / "album/a\nb.jpg").write_bytes(b"no photo")
    assert run(infer, "album", "out") == 1
    assert error_line(capsys.readouterr().err).startswith(f"{work}/album/a\\nb.jpg: ")


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
