"""A run's EMA of G, and its optimizers in any memory layout."""
import copy

import pytest
import torch
from torch import nn

from pix2pix import files
from pix2pix.run import STATEFUL, Run
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


def test_D_is_saved_with_its_spectral_norms_and_goes_on_as_if_it_never_stopped(tmp_path):
    def learn(run, steps):
        """The logits of some steps of D in training, each of which moves its spectral norms."""
        found = []
        for step in range(steps):
            generator = torch.Generator().manual_seed(step)
            L = torch.rand(2, 1, 32, 32, generator=generator)
            found.append(run.D(L, L.repeat(1, 2, 1, 1) - 0.5))
            run.opt_D.zero_grad()
            found[-1].square().mean().backward()
            run.opt_D.step()
        return torch.stack(found)

    G = nn.Conv2d(1, 2, 1)
    unchanged = new_run(G=G, lr=0.1)
    start = copy.deepcopy(unchanged.D)
    learn(unchanged, 3)
    saved = {name: getattr(unchanged, name).state_dict() for name in STATEFUL}
    files.save(tmp_path / "checkpoint.pt", {"kind": "checkpoint", "rows": []} | saved)
    resumed = new_run(G=copy.deepcopy(G), D=start, lr=0.1)
    resumed.load(files.load_saved(tmp_path / "checkpoint.pt", "checkpoint"))
    assert torch.equal(learn(unchanged, 2), learn(resumed, 2))
    for name, tensor in unchanged.D.state_dict().items():
        assert torch.equal(tensor, resumed.D.state_dict()[name]), name


@pytest.mark.parametrize("last, warns", [(10.1, True), (10.0, False), (3.0, False)])
def test_the_last_line_warns_if_the_ab_error_is_above_that_of_gray(last, warns):
    run = small_run()
    run.rows = [{"ab_error": error} for error in (10.0, 12.0, last)]
    hint = "done, but the ab_error is above the baseline: train on more photos, for more"
    assert run.verdict().startswith(hint if warns else "done: see out/samples; try infer.py")


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
