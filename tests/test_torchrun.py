"""Two processes on CPUs train one network: the real program under torchrun, gradients exchanged by gloo."""

import os
import subprocess
import sys

import pytest
import torch

import train
from pix2pix.runtime import load_saved
from tests.conftest import ROOT, TINY, read_log
from tests.test_resume import assert_equal, figures

SPY = """
import os, sys, time, torch, train
nets, step, rank = [], train.gan_step, os.environ["RANK"]
def spy(G, D, *rest):
    nets[:] = G, D
    if rank == "1" and os.environ.get("FAIL"):
        while not os.path.exists("out/checkpoint.pt"):     # the first epoch's, which the other process writes
            time.sleep(0.1)
        raise ValueError("a broken GPU, say")
    return step(G, D, *rest)
train.gan_step = spy
code = train.main()
if nets:
    torch.save([{name: weight for name, weight in net.module.named_parameters()} for net in nets], f"rank{rank}.pt")
sys.exit(code)
"""


def torchrun(scenes, *options, cwd, **environment):
    """Two processes with batches of 2, which is one with batches of 4; at the end each saves its own weights."""
    (cwd / "spy.py").write_text(SPY)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "spy.py"]
    command += ["--data", str(scenes), *TINY, "--batch-size", "2", "--pretrain-epochs", "1", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def together(scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    run = torchrun(scenes, "--gan-epochs", "2", "--out", "out", cwd=folder)
    assert run.returncode == 0, run.stderr
    return folder, run.stdout, run.stderr


def test_both_processes_end_with_the_same_weights(together):
    first, second = (torch.load(together[0] / f"rank{rank}.pt") for rank in (0, 1))
    assert_equal(first, second)


def test_the_first_process_alone_writes_and_prints(together):
    folder, printed, errors = together
    lines = printed.splitlines()
    assert [line.split(":")[0] for line in lines[1:]] == ["pretrain 1/3", "gan 2/3", "gan 3/3", "done"]
    assert lines[0].startswith("20 photos to train on, 4 held out") and "Warning" not in errors
    files = ["checkpoint.pt", "generator.pt", "log.jsonl", "samples", "skipped.txt"]
    assert sorted(os.listdir(folder / "out")) == files and len(os.listdir(folder / "out/samples")) == 3


def test_two_processes_train_nearly_as_one_with_batches_twice_as_large(together, scenes, work):
    """Not quite: each process normalizes with the statistics of its own half of a batch, as BatchNorm does."""
    options = ["--data", str(scenes), *TINY, "--pretrain-epochs", "1", "--gan-epochs", "2", "--out", "alone"]
    assert train.main(options) == 0
    alone, both = read_log(work / "alone"), read_log(together[0] / "out")
    assert both[0] == alone[0]  # the gray row: the same photos are held out, and all of them are judged
    for one, two in zip(alone[1:], both[1:], strict=True):
        assert two["ab_error"] == pytest.approx(one["ab_error"], rel=0.25)
        assert two["l1"] == pytest.approx(one["l1"], rel=0.25)


def test_a_process_that_fails_ends_all_and_resuming_equals_the_uninterrupted_run(together, scenes, tmp_path):
    run = torchrun(scenes, "--gan-epochs", "2", "--out", "out", "--resume", cwd=tmp_path, FAIL="1")
    assert run.returncode != 0 and "a broken GPU, say" in run.stderr
    assert len(read_log(tmp_path / "out")) == 2 and not (tmp_path / "rank0.pt").exists()
    run = torchrun(scenes, "--gan-epochs", "2", "--out", "out", "--resume", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    whole, resumed = (load_saved(folder / "out/checkpoint.pt", "checkpoint") for folder in (together[0], tmp_path))
    assert_equal(resumed, whole)
    assert figures(read_log(tmp_path / "out")) == figures(read_log(together[0] / "out"))
