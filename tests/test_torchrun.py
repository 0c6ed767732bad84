"""Two processes on CPUs train one network: the real program under torchrun, with gloo."""
import os
import re
import socket

import pytest
import torch

import train
from pix2pix import device
from tests.helpers import (
    PROGRAMS, TINY, assert_same_run, epochs, error_line, read_log, run_python, run_train, stub
)

TWO_STEPS = ["--limit", "10", "--val", "2", *epochs(1, 1)]                  # in each phase


def free_ports(number):
    servers = [socket.create_server(("localhost", 0)) for _ in range(number)]
    ports = [str(server.getsockname()[1]) for server in servers]
    for server in servers:
        server.close()
    return " ".join(ports)


def run_two_processes(program, photos, *options, cwd, **environment):
    return run_python(
        "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", PROGRAMS / program,
        "--data", photos, *TINY, *TWO_STEPS, *options,
        cwd=cwd, OMP_NUM_THREADS="1", **environment
    )


@pytest.fixture(scope="module")
def together(scenes, tmp_path_factory):
    """Four trainings with batches of 2 in each process, which is one process with batches of 4."""
    folder = tmp_path_factory.mktemp("together")
    process = run_two_processes(
        "four_runs.py", scenes, "--batch-size", 2, cwd=folder, PORTS=free_ports(4)
    )
    assert (folder / "resumed.rank0").exists(), process.stderr
    return folder, process


def test_both_processes_end_with_the_same_weights(together):
    folder, _ = together
    assert (folder / "whole.rank0").read_text() == (folder / "whole.rank1").read_text()
    assert (folder / "resumed.rank0").read_text() == (folder / "resumed.rank1").read_text()


def test_the_first_process_alone_writes_and_prints(together):
    folder, process = together
    nothing, first, *lines = process.stdout.splitlines()[:5]
    assert nothing.startswith("there is no whole/checkpoint.pt to resume")
    assert first.startswith("8 photos to train on, 2 to validate on")
    assert [re.split("[:,]", line)[0] for line in lines] == ["pretrain 1/2", "gan 2/2", "done"]
    assert "Warning" not in process.stderr.split("Traceback")[0]
    names = "checkpoint.pt curves.png generator.pt log.jsonl pretrained.pt samples skipped.txt"
    assert sorted(os.listdir(folder / "whole")) == names.split()
    assert sorted(os.listdir(folder / "whole/samples")) == ["001_pretrain.png", "002_gan.png"]


def test_two_processes_train_nearly_as_one_with_batches_twice_as_large(
    together, scenes, work, saved
):
    """Not quite, because BatchNorm sees each process's half of a batch by itself."""
    assert run_train(scenes, *TWO_STEPS, "--out", "alone") == 0
    alone = read_log("alone")
    both = read_log(together[0] / "whole")
    assert both[0] == alone[0], "the same photos are held out, and all of them are judged"
    for one, two in zip(alone[1:], both[1:], strict=True):
        assert two["ab_error"] == pytest.approx(one["ab_error"], rel=0.25)
        assert two["l1"] == pytest.approx(one["l1"], rel=0.25)


def test_the_log_counts_the_photos_of_all_processes(together):
    """Two steps an epoch, of 2 photos in each of 2 processes."""
    for row in read_log(together[0] / "whole")[1:]:
        assert row["pictures_per_second"] * row["seconds"] == pytest.approx(2 * 2 * 2)


def test_an_interrupted_and_resumed_run_equals_the_uninterrupted_one(together):
    folder, _ = together
    assert_same_run(folder / "interrupted", folder / "whole")
    assert (folder / "resumed.rank1").read_text() == (folder / "whole.rank1").read_text()


def test_a_process_that_fails_ends_all(together):
    folder, process = together
    assert process.returncode != 0 and "a broken GPU, say" in process.stderr
    assert not (folder / "failed.rank0").exists() and not (folder / "failed.rank1").exists()


@pytest.fixture(scope="module")
def ended(scenes, tmp_path_factory):
    """A training whose second process runs out of memory at its first step."""
    return run_two_processes(
        "second_process_is_full.py", scenes, "--out", "out", cwd=tmp_path_factory.mktemp("ended")
    )


def test_a_process_that_runs_out_of_memory_ends_all_and_says_so_once(ended):
    assert ended.returncode != 0
    hint = "error: out of memory: try a smaller --batch-size, with --resume if the run has begun"
    assert ended.stderr.splitlines().count(hint) == 1
    assert len(ended.stdout.splitlines()) == 1, "how many photos there are, and no epoch"


@pytest.fixture
def last_process_of(monkeypatch):
    """Makes this process the last of so many, which it never meets."""
    def join(world):
        stub(monkeypatch, device, "join_processes")
        stub(monkeypatch, torch.distributed, "barrier")
        monkeypatch.setenv("RANK", str(world - 1))
        monkeypatch.setenv("WORLD_SIZE", str(world))

    return join


@pytest.mark.parametrize("world, events", [(2, ["trained", "left"]), (1, ["trained"])])
def test_processes_that_met_part_at_the_end(
    work, scenes, monkeypatch, last_process_of, world, events
):
    seen = []
    last_process_of(world)
    monkeypatch.setattr(train, "fit", lambda *_, **parts: seen.append("trained"))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: seen.append("left"))
    assert run_train(scenes) == 0
    assert seen == events


def test_fewer_photos_than_processes_are_one_clear_line(work, scenes, capsys, last_process_of):
    """Processes without a photo would end in a traceback, and the others would wait for them."""
    last_process_of(21)
    assert run_train(scenes) == 1
    message = error_line(capsys.readouterr().err)
    assert message == "21 processes share only 20 photos: start fewer"
