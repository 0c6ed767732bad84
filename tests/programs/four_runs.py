"""One process of four trainings under torchrun, for test_torchrun.py; arguments as of train.py.

To call train.main several times is faster than to start new processes. The trainings are: a whole
one; one that Ctrl-C ends at the first step of the GAN; that one, resumed; and one in which process
1 fails at its first step. After each, the process writes a digest of the weights that it has.
"""
import hashlib
import os
import sys
import time
from pathlib import Path

import torch

import train

RANK = os.environ["RANK"]
PORTS = os.environ["PORTS"].split()         # one for each training


def digest(nets):
    found = hashlib.sha256()
    for net in nets:
        for weight in net.parameters():
            found.update(weight.detach().numpy().tobytes())
    return found.hexdigest()


def train_once(what, out, pretrain_step, gan_step):
    """Train, and return the exit code and the networks of the GAN phase."""
    nets = []

    def l1_step(*args):
        if what == "failed" and RANK == "1":
            raise ValueError("a broken GPU, say")
        return pretrain_step(*args)

    def step_of_both(G, D, *rest):
        while not Path(out, "checkpoint.pt").exists():      # of L1, which process 0 writes
            time.sleep(0.01)
        if what == "interrupted":
            raise KeyboardInterrupt
        nets[:] = G.module, D.module
        return gan_step(G, D, *rest)

    train.pretrain_step = l1_step
    train.gan_step = step_of_both
    code = train.main([*sys.argv[1:], "--resume", "--out", out])
    return code, nets


def leave_the_others():
    """Processes that met once meet again at another port."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    os.environ |= {"MASTER_PORT": PORTS.pop(), "TORCHELASTIC_USE_AGENT_STORE": "False"}


def main():
    steps = train.pretrain_step, train.gan_step
    for what in ("whole", "interrupted", "resumed", "failed"):
        out = "interrupted" if what == "resumed" else what
        code, nets = train_once(what, out, *steps)
        if code not in (0, 130):
            return code
        Path(f"{what}.rank{RANK}").write_text(digest(nets))
        leave_the_others()
    return 0


if __name__ == "__main__":
    sys.exit(main())
