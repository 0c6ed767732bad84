"""Two processes on CPUs train one network: the real program under torchrun, with gloo."""
import os
import socket
import subprocess
import sys

import pytest

import train
from pix2pix import files
from tests.conftest import ROOT, TINY, read_log
from tests.test_resume import assert_equal, checkpoint, figures

# Both processes call train.main several times, which is faster than to start new ones: for a whole
# run; for one that Ctrl-C ends at the first step of the GAN; to resume that one; and for one in
# which process 1 fails at the first step. After each they leave a digest of the weights they have.
PROGRAM = """
import hashlib, os, sys, time, torch, train
rank, ports = os.environ["RANK"], os.environ["PORTS"].split()
pretrain_step, gan_step = train.pretrain_step, train.gan_step

def spy_L1(*args):
    if what == "failed" and rank == "1":
        raise ValueError("a broken GPU, say")
    return pretrain_step(*args)

def spy_GAN(G, D, *rest):
    while not os.path.exists(f"{out}/checkpoint.pt"):       # of L1, which process 0 writes
        time.sleep(0.01)
    if what == "interrupted":
        raise KeyboardInterrupt
    nets[:] = G.module, D.module
    return gan_step(G, D, *rest)

train.pretrain_step, train.gan_step = spy_L1, spy_GAN
for what in ("whole", "interrupted", "resumed", "failed"):
    nets = []
    out = "interrupted" if what == "resumed" else what
    code = train.main([*sys.argv[1:], "--resume", "--out", out])
    if code not in (0, 130):
        sys.exit(code)
    digest = hashlib.sha256()
    for net in nets:
        for weight in net.parameters():
            digest.update(weight.detach().numpy().tobytes())
    with open(f"{what}.rank{rank}", "w") as file:
        file.write(digest.hexdigest())
    # Who has met once meets again at another port.
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    os.environ |= {"MASTER_PORT": ports.pop(), "TORCHELASTIC_USE_AGENT_STORE": "False"}
"""
TWO_STEPS = "--limit 10 --val 2 --pretrain-epochs 1 --gan-epochs 1".split()        # in each phase


def free_ports(number):
    servers = [socket.create_server(("localhost", 0)) for _ in range(number)]
    ports = [str(server.getsockname()[1]) for server in servers]
    for server in servers:
        server.close()
    return " ".join(ports)


@pytest.fixture(scope="module")
def together(scenes, tmp_path_factory):
    """Batches of 2 in each process, which is one with batches of 4."""
    folder = tmp_path_factory.mktemp("together")
    (folder / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command += ["program.py", "--data", scenes, *TINY, *TWO_STEPS, "--batch-size", "2"]
    settings = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PORTS": free_ports(4)}
    process = subprocess.run(command, cwd=folder, env=os.environ | settings, capture_output=True,
                             text=True, timeout=240)
    assert (folder / "resumed.rank0").exists(), process.stderr
    return folder, process


def test_both_processes_end_with_the_same_weights(together):
    folder, _ = together
    assert (folder / "whole.rank0").read_text() == (folder / "whole.rank1").read_text()
    assert (folder / "resumed.rank0").read_text() == (folder / "resumed.rank1").read_text()


def test_the_first_process_alone_writes_and_prints(together):
    folder, process = together
    first, *lines = process.stdout.splitlines()[:4]
    assert first.startswith("8 photos to train on, 2 held out")
    assert [line.split(":")[0] for line in lines] == ["pretrain 1/2", "gan 2/2", "done"]
    assert "Warning" not in process.stderr.split("Traceback")[0]
    names = "checkpoint.pt curves.png generator.pt log.jsonl samples skipped.txt".split()
    assert sorted(os.listdir(folder / "whole")) == names
    assert sorted(os.listdir(folder / "whole/samples")) == ["001_pretrain.png", "002_gan.png"]


def test_two_processes_train_nearly_as_one_with_batches_twice_as_large(
    together, scenes, work, monkeypatch
):
    """Not quite: BatchNorm has the statistics of each one's own half of a batch."""
    monkeypatch.setattr(files, "save", lambda path, content: None)
    assert train.main(["--data", str(scenes), *TINY, *TWO_STEPS, "--out", "alone"]) == 0
    alone = read_log("alone")
    both = read_log(together[0] / "whole")
    assert both[0] == alone[0], "the same photos are held out, and all of them are judged"
    for one, two in zip(alone[1:], both[1:], strict=True):
        assert two["ab_error"] == pytest.approx(one["ab_error"], rel=0.25)
        assert two["l1"] == pytest.approx(one["l1"], rel=0.25)


def test_an_interrupted_and_resumed_run_equals_the_uninterrupted_one(together):
    folder, _ = together
    resumed = folder / "interrupted"
    assert_equal(checkpoint(resumed), checkpoint(folder / "whole"))
    assert figures(read_log(resumed)) == figures(read_log(folder / "whole"))
    assert (folder / "resumed.rank1").read_text() == (folder / "whole.rank1").read_text()


def test_a_process_that_fails_ends_all(together):
    folder, process = together
    assert process.returncode != 0 and "a broken GPU, say" in process.stderr
    assert not (folder / "failed.rank0").exists() and not (folder / "failed.rank1").exists()
