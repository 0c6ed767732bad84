"""A run's EMA of G, its optimizers in any memory layout, and its curves."""
import copy

import numpy as np
import pytest
import torch
from PIL import ImageColor
from torch import nn

from pix2pix.run import STATEFUL, Run, curves
from tests.helpers import new_run

LAYOUTS = (torch.contiguous_format, torch.channels_last)


def small_run(layout=torch.contiguous_format):
    """A run of two convolutions."""
    torch.manual_seed(0)
    nets = [nn.Conv2d(2, 3, 3).to(memory_format=layout) for _ in ("G", "D")]
    return new_run(*nets, lr=0.1)


def small_step(run):
    x = torch.arange(256.0).sin().view(2, 2, 8, 8)
    for net, optimizer in ((run.G, run.opt_G), (run.D, run.opt_D)):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()


def next_step(saved_in, resumed_in, load):
    """Whether G and D, one step after `load`, are where the run is that was never saved."""
    unchanged = small_run(saved_in)
    small_step(unchanged)
    saved = {name: copy.deepcopy(getattr(unchanged, name).state_dict()) for name in STATEFUL}
    resumed = small_run(resumed_in)
    load(resumed, saved | {"rows": []})
    small_step(unchanged)
    small_step(resumed)
    return [
        torch.allclose(getattr(resumed, name).weight, getattr(unchanged, name).weight, atol=1e-5)
        for name in ("G", "D")
    ]


@pytest.mark.parametrize("saved_in", LAYOUTS)
@pytest.mark.parametrize("resumed_in", LAYOUTS)
def test_a_run_takes_the_same_next_step_in_whatever_layout_it_is_resumed(saved_in, resumed_in):
    assert next_step(saved_in, resumed_in, Run.load) == [True, True]


@pytest.mark.parametrize("saved_in, resumed_in", [LAYOUTS, LAYOUTS[::-1]])
def test_fused_adam_steps_wrongly_with_a_state_of_other_strides(saved_in, resumed_in):
    """If this fails, PyTorch handles it now, and `load` need not match the strides."""
    def load_alone(run, saved):
        for name in STATEFUL:
            getattr(run, name).load_state_dict(saved[name])

    assert next_step(saved_in, resumed_in, load_alone) == [False, False]


def test_the_ema_follows_G_with_a_memory_that_grows():
    run = new_run()
    start = run.G.head.weight.detach().clone()
    with torch.no_grad():
        run.G.head.weight.add_(1)
        run.G.encoder.bn1.running_mean.add_(1)
    run.update_ema(1)
    assert torch.allclose(run.ema.head.weight, start + 0.9)
    assert torch.allclose(run.ema.encoder.bn1.running_mean, torch.tensor(0.9))
    old = run.ema.head.weight.clone()
    run.update_ema(10**6)
    assert torch.allclose(run.ema.head.weight - old, torch.tensor(0.0001), atol=1e-5)


def test_the_ema_moves_without_a_look_at_the_networks_names(monkeypatch):
    run = small_run()
    nn.init.zeros_(run.G.weight)
    for name in ("state_dict", "named_parameters", "parameters", "buffers"):
        monkeypatch.setattr(nn.Module, name, lambda net: pytest.fail("the lists are made once"))
    before = run.ema.weight.clone()
    run.update_ema(1)
    assert torch.allclose(run.ema.weight, 0.1 * before) and before.abs().sum() > 0


def test_curves_are_as_high_as_their_figures_and_the_gan_phase_is_shaded():
    rows = [
        {"phase": "gray", "epoch": 0, "ab_error": 10, "colorfulness": 0},
        {"phase": "pretrain", "epoch": 1, "ab_error": 8, "colorfulness": 20},
        {"phase": "gan", "epoch": 2, "ab_error": 8, "colorfulness": 20},
        {"phase": "gan", "epoch": 3, "ab_error": 9, "colorfulness": 30}
    ]
    for row in rows:
        row["colorfulness_truth"] = 40
    rows[2] |= {"d_real_accuracy": 0.4, "d_fake_accuracy": 0.3}
    rows[3] |= {"d_real_accuracy": 0.5, "d_fake_accuracy": 0.25}
    pixels = np.asarray(curves(rows))

    def is_drawn(color, column):
        return (pixels[:, column] == ImageColor.getrgb(color)).all(axis=1)

    assert is_drawn("white", 220)[20] and is_drawn("lavender", 240)[20]
    assert is_drawn("black", 200)[100], "the line at 1"
    shares_of_both_epochs = {
        "crimson": (0.8, 0.9),
        "royalblue": (0.5, 0.75),
        "seagreen": (0.4, 0.5),
        "orange": (0.3, 0.25)
    }
    for color, shares in shares_of_both_epochs.items():
        for column, share in zip((470, 698), shares):           # where epochs 2 and 3 are
            height = is_drawn(color, column).nonzero()[0].mean()
            assert height == pytest.approx(600 - 500 * share, abs=5)
