"""Nothing that was trained is ever lost: exact resume, whole files, clear ends."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

import infer
import train
from pix2pix.runtime import load_saved
from tests.conftest import ROOT, TINY, noise, read_log, script


def run(scenes, *options, out="out"):
    return train.main(
        ["--data", str(scenes), *TINY, "--pretrain-epochs", "2", "--gan-epochs", "2", "--out", out, *options]
    )


def figures(rows):
    return [
        {name: value for name, value in row.items() if name not in ("seconds", "pictures_per_second")} for row in rows
    ]


def assert_equal(saved, other, path=""):
    """Bit for bit, but for timings."""
    assert type(saved) is type(other), path
    if isinstance(saved, torch.Tensor):
        assert torch.equal(saved, other), path
    elif isinstance(saved, dict):
        assert saved.keys() - {"seconds", "pictures_per_second"} == other.keys() - {"seconds", "pictures_per_second"}, (
            path
        )
        for name in saved.keys() - {"seconds", "pictures_per_second"}:
            assert_equal(saved[name], other[name], f"{path}/{name}")
    elif isinstance(saved, (list, tuple)):
        assert len(saved) == len(other), path
        for index, pair in enumerate(zip(saved, other)):
            assert_equal(*pair, f"{path}/{index}")
    else:
        assert saved == other, path


def checkpoint(out="out"):
    return load_saved(Path(out, "checkpoint.pt"), "checkpoint")


def interrupt_at_step(monkeypatch, number):
    """Ctrl-C after so many steps of training, whatever the phase."""
    calls = []

    def count(step):
        def wrapped(*args):
            calls.append(1)
            if len(calls) == number:
                raise KeyboardInterrupt
            return step(*args)

        return wrapped

    monkeypatch.setattr(train, "pretrain_step", count(train.pretrain_step))
    monkeypatch.setattr(train, "gan_step", count(train.gan_step))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, scenes):
    folder = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(scenes) == 0
    return folder / "out"


@pytest.mark.parametrize("steps", [(7, 5, 3), (13, 8), (2, 6, 5)])
def test_an_interrupted_and_resumed_run_equals_the_uninterrupted_one(
    work, scenes, uninterrupted, monkeypatch, capsys, steps
):
    """5 steps an epoch: stopped within each phase, and on both sides of the boundary between them."""
    for number in steps:
        with monkeypatch.context() as patch:
            interrupt_at_step(patch, number)
            assert run(scenes, "--resume") == 130
        error = capsys.readouterr().err.strip()
        assert error == "interrupted: the same command with --resume goes on after the last whole epoch"
    assert run(scenes, "--resume") == 0
    whole, resumed = checkpoint(uninterrupted), checkpoint()
    assert len(resumed["rows"]) == 5
    assert_equal(resumed, whole)
    assert figures(read_log("out")) == figures(read_log(uninterrupted))
    for name in ("001_pretrain.png", "004_gan.png"):
        assert (work / "out/samples" / name).read_bytes() == (uninterrupted / "samples" / name).read_bytes()


def test_one_seed_gives_one_result_and_another_seed_another(work, scenes, uninterrupted):
    assert run(scenes, out="again") == 0
    again = checkpoint("again")
    assert_equal(again, checkpoint(uninterrupted))
    assert run(scenes, "--seed", "1", "--pretrain-epochs", "1", "--gan-epochs", "0", out="other") == 0
    other = checkpoint("other")
    assert other["rows"][0]["ab_error"] != again["rows"][0]["ab_error"]  # other photos are held out
    assert other["rows"][1]["l1"] != again["rows"][1]["l1"]


def test_without_resume_a_run_is_never_overwritten(work, scenes, uninterrupted, capsys):
    os.symlink(uninterrupted, "out")
    assert run(scenes) == 1
    assert "--resume" in capsys.readouterr().err
    assert_equal(checkpoint(), checkpoint(uninterrupted))


def test_a_finished_run_says_so(work, scenes, uninterrupted, capsys):
    shutil.copytree(uninterrupted, "out")
    assert run(scenes, "--resume") == 0
    assert "done: look at out/samples" in capsys.readouterr().out
    assert_equal(checkpoint(), checkpoint(uninterrupted))


@pytest.mark.parametrize(
    "option, value, saved",
    [
        ("--size", "64", 32),
        ("--batch-size", "5", 4),
        ("--seed", "1", 0),
        ("--lr", "0.1", 0.0002),
        ("--val", "3", 4),
        ("--gan-epochs", "1", 2),
        ("--pretrain-epochs", "3", 2),
        ("--l1-weight", "10.0", 100),
        ("--limit", "20", None),
    ],
)
def test_an_option_that_contradicts_the_run_is_an_error_that_names_both_values(
    work, scenes, uninterrupted, capsys, option, value, saved
):
    os.symlink(uninterrupted, "out")
    assert run(scenes, "--resume", option, value) == 2
    error = capsys.readouterr().err
    assert error == f"error: {option} {value} contradicts the run to resume: {saved} (see train.py --help)\n"


def test_the_saved_options_win_over_defaults(work, scenes, uninterrupted):
    shutil.copytree(uninterrupted, "out")
    assert train.main(["--data", str(scenes), "--out", "out", "--resume", "--device", "cpu"]) == 0
    assert checkpoint()["config"] == checkpoint(uninterrupted)["config"]


def test_a_finished_run_can_be_trained_further(work, scenes, uninterrupted):
    assert run(scenes, "--pretrain-epochs", "1", "--gan-epochs", "0") == 0
    assert run(scenes, "--resume", "--pretrain-epochs", "2", "--gan-epochs", "1") == 0
    assert run(scenes, "--resume", "--gan-epochs", "2") == 0
    assert_equal(checkpoint(), checkpoint(uninterrupted))


def test_photos_that_changed_are_an_error_and_photos_that_moved_in_time_are_none(work, scenes, capsys):
    shutil.copytree(scenes, "photos")
    assert run("photos", "--pretrain-epochs", "1", "--gan-epochs", "0") == 0
    os.utime("photos/01.jpg", (1, 1))
    assert run("photos", "--resume", "--gan-epochs", "0") == 0
    assert len(checkpoint()["rows"]) == 3
    Image.fromarray(noise(72, 60)).save("photos/01.jpg")
    assert run("photos", "--resume") == 1
    assert "photos has changed" in capsys.readouterr().err


def test_results_that_disagree_are_made_again_from_the_checkpoint(work, scenes, uninterrupted):
    shutil.copytree(uninterrupted, "out")
    (work / "out/log.jsonl").write_text('{"phase": "gray", "epo')
    (work / "out/generator.pt").write_bytes(b"")
    (work / "out/samples/004_gan.png").unlink()
    assert run(scenes, "--resume") == 0
    assert figures(read_log("out")) == figures(read_log(uninterrupted))
    assert_equal(
        load_saved(work / "out/generator.pt", "generator"), load_saved(uninterrupted / "generator.pt", "generator")
    )
    assert (work / "out/samples/004_gan.png").read_bytes() == (uninterrupted / "samples/004_gan.png").read_bytes()


def test_saved_files_hold_tensors_and_plain_values_only(uninterrupted):
    def check(value):
        if isinstance(value, dict):
            for name, part in value.items():
                assert type(name) in (str, int)
                check(part)
        elif isinstance(value, (list, tuple)):
            for part in value:
                check(part)
        else:
            assert value is None or type(value) in (torch.Tensor, str, int, float, bool), type(value)

    check(checkpoint(uninterrupted))
    check(load_saved(uninterrupted / "generator.pt", "generator"))


def not_saved_by_us(uninterrupted):
    whole = (uninterrupted / "checkpoint.pt").read_bytes()
    yield b"", "empty"
    yield b"<!DOCTYPE html><html></html>", "a web page"
    yield whole[: len(whole) // 2], "cut in the middle"
    yield (uninterrupted / "generator.pt").read_bytes(), "a generator"
    for contents in ({"state_dict": {}}, [1, 2], torch.zeros(3)):
        torch.save(contents, "other.pt")
        with open("other.pt", "rb") as file:
            yield file.read(), "another program's"


def test_a_file_that_is_no_checkpoint_gets_one_clear_line(work, scenes, uninterrupted, capsys):
    for contents, what in not_saved_by_us(uninterrupted):
        (work / "out").mkdir(exist_ok=True)
        (work / "out/checkpoint.pt").write_bytes(contents)
        assert run(scenes, "--resume") == 1, what
        error = capsys.readouterr().err
        assert error == "error: out/checkpoint.pt is not a checkpoint that train.py wrote, or not the whole of one\n", (
            what
        )


def test_a_checkpoint_is_refused_where_a_generator_is_expected(work, uninterrupted, capsys):
    Image.fromarray(noise(40, 40)).save("in.png")
    assert infer.main(["in.png", "out.png", "--checkpoint", str(uninterrupted / "checkpoint.pt")]) == 1
    assert "is not a generator that train.py wrote" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_out_of_memory_names_a_smaller_batch(work, scenes, capsys, monkeypatch, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(train, "pretrain_step", fail)
    assert run(scenes) == 1
    assert capsys.readouterr().err == "error: out of memory, try a smaller --batch-size\n"


def test_a_full_disk_is_a_clear_error_and_keeps_the_last_good_checkpoint(work, scenes):
    """A limit on the size of files fails in the middle of writing the checkpoint, as a full disk does."""
    options = ["--data", scenes, *TINY, "--pretrain-epochs", "1", "--gan-epochs", "0", "--out", "out"]
    assert run(scenes, "--pretrain-epochs", "1", "--gan-epochs", "0") == 0
    before = (work / "out/checkpoint.pt").read_bytes()
    limit = (100 * 2**20, 100 * 2**20)  # above generator.pt, below checkpoint.pt
    options[options.index("--pretrain-epochs") + 1] = "2"
    result = script(
        "train.py", *options, "--resume", cwd=work, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    )
    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and "File too large" in result.stderr and result.stderr.count("\n") == 1
    assert (work / "out/checkpoint.pt").read_bytes() == before and not list((work / "out").glob(".*"))
    assert run(scenes, "--resume", "--gan-epochs", "0") == 0
    assert len(checkpoint()["rows"]) == 3


def start(scenes, work):
    command = [
        sys.executable,
        ROOT / "train.py",
        "--data",
        scenes,
        *TINY,
        "--pretrain-epochs",
        "2",
        "--gan-epochs",
        "2",
    ]
    return subprocess.Popen(
        [*map(str, command), "--out", "out", "--resume"],
        cwd=work,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # which a background job ignores
    )


def test_ctrl_c_says_how_to_go_on(work, scenes):
    process = start(scenes, work)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error == "interrupted: the same command with --resume goes on after the last whole epoch\n"


def test_kill_at_any_moment_loses_no_epoch(work, scenes, uninterrupted):
    """The real program, killed at random moments, mostly while it writes files; then resumed to the end."""
    kills = int(os.environ.get("KILLS", "3"))
    moments, committed = random.Random(0), 0
    while kills:
        process = start(scenes, work)
        line = process.stdout.readline()
        assert "photos to train on" in line, process.stderr.read()
        time.sleep(moments.uniform(0, 2.5))
        finished = process.poll() is not None
        process.kill()
        process.communicate()
        if (work / "out/checkpoint.pt").exists():
            rows = checkpoint()["rows"]
            assert len(rows) - 1 >= committed, "an epoch was lost"
            committed = len(rows) - 1
            assert [row["epoch"] for row in read_log("out")][: len(rows)] == list(range(len(rows)))
        if finished:
            assert_equal(checkpoint(), checkpoint(uninterrupted))
            shutil.rmtree("out")
            committed = 0
        kills -= 1
    process = start(scenes, work)
    assert process.communicate(timeout=120) and process.returncode == 0
    assert_equal(checkpoint(), checkpoint(uninterrupted))
    assert figures(read_log("out")) == figures(read_log(uninterrupted))
