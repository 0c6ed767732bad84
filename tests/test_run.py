"""What a run saves and loads, in any memory layout, and what it says at its end."""
import copy

import pytest
import torch
from torch import nn

from pix2pix import run as run_module
from pix2pix.run import Run
from pix2pix.weights import load_saved, save_weights
from tests.helpers import Clock, new_parts, new_run

LAYOUTS = (torch.contiguous_format, torch.channels_last)


def small_parts(layout=torch.contiguous_format):
    """Two convolutions, and what else a run saves."""
    torch.manual_seed(0)
    nets = [nn.Conv2d(2, 3, 3).to(memory_format=layout) for _ in ("G", "D")]
    return new_parts(*nets, lr=0.1)


def states(parts):
    return {name: copy.deepcopy(part.state_dict()) for name, part in vars(parts).items()}


def small_step(parts):
    x = torch.arange(256.0).sin().view(2, 2, 8, 8)
    for net, optimizer in ((parts.G, parts.opt_G), (parts.D, parts.opt_D)):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()


def next_step(saved_in, resumed_in, load):
    """Whether G and D, one step after `load`, are where the run is that was never saved."""
    unchanged = small_parts(saved_in)
    small_step(unchanged)
    resumed = small_parts(resumed_in)
    load(new_run(resumed), states(unchanged) | {"fingerprint": "photos", "rows": []})
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
        for name, part in run.parts.items():
            part.load_state_dict(saved[name])

    assert next_step(saved_in, resumed_in, load_alone) == [False, False]


def test_D_is_saved_with_its_spectral_norms_and_goes_on_as_if_it_never_stopped(tmp_path):
    def learn(parts, steps):
        """The logits of some steps of D in training, each of which moves its spectral norms."""
        found = []
        for step in range(steps):
            generator = torch.Generator().manual_seed(step)
            L = torch.rand(2, 1, 32, 32, generator=generator)
            found.append(parts.D(L, L.repeat(1, 2, 1, 1) - 0.5))
            parts.opt_D.zero_grad()
            found[-1].square().mean().backward()
            parts.opt_D.step()
        return torch.stack(found)

    G = nn.Conv2d(1, 2, 1)
    unchanged = new_parts(G=G, lr=0.1)
    start = copy.deepcopy(unchanged.D)
    learn(unchanged, 3)
    facts = {"kind": "checkpoint", "fingerprint": "photos", "rows": []}
    save_weights(tmp_path / "checkpoint.pt", facts | states(unchanged))
    resumed = new_parts(G=copy.deepcopy(G), D=start, lr=0.1)
    new_run(resumed).load(load_saved(tmp_path / "checkpoint.pt", "checkpoint"))
    assert torch.equal(learn(unchanged, 2), learn(resumed, 2))
    for name, tensor in unchanged.D.state_dict().items():
        assert torch.equal(tensor, resumed.D.state_dict()[name]), name


@pytest.mark.parametrize("last, warns", [(10.1, True), (10.0, False), (3.0, False)])
def test_the_last_line_warns_if_the_ab_error_is_above_that_of_gray(last, warns):
    run = new_run()
    run.rows = [{"ab_error": error} for error in (10.0, 12.0, last)]
    hint = "done, but the ab_error is above the baseline: train on more photos, for more"
    assert run.verdict().startswith(hint if warns else "done: see out/samples;")


@pytest.mark.parametrize("last", [8.0, 13.0])
@pytest.mark.parametrize("error", ["ab_error", "L_error"])
def test_the_last_line_names_the_epoch_with_the_lowest_validation_error(error, last):
    run = new_run(error=error)
    run.rows += [{error: value} for value in (9.5, 7.25, 7.5, last)]
    assert f"the lowest {error}, 7.25, was that of epoch 2" in run.verdict()


def test_a_save_starts_the_wait_for_the_next_one(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(run_module, "time", clock)
    run = new_run(out=tmp_path / "out", save_seconds=60)
    for _ in range(3):
        clock.sleep(59)
        assert not run.is_due()
        clock.sleep(1)
        assert run.is_due()
        run.save(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), {"kind": "generator"})
        assert not run.is_due()
