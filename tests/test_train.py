"""What a step moves, what a run does and leaves behind, and that it learns."""
import contextlib
import copy
import json
import math
import os
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.overrides import TorchFunctionMode

import infer
import train
from pix2pix import data, demo
from pix2pix import run as run_module
from pix2pix.color import encode
from pix2pix.metrics import evaluate
from pix2pix.models import Discriminator, Generator
from pix2pix.weights import load_saved
from tests.helpers import (
    CPU, ROOT, TINY_PRETRAINED, Clock, Waits, checkpoint, epochs, error_line, fit_as_rank_1,
    held_out, new_parts, new_repair_parts, no_training, out_of_memory, parse, raising, read_log,
    run, run_infer, run_python, run_train, save_noise, stub, watch
)

EXACT = contextlib.nullcontext()                # float32, without autocast

# One step


@pytest.fixture
def nets():
    parts = new_parts()
    L, ab = encode(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
    return parts.G, parts.D, parts.opt_G, parts.opt_D, L, ab


def weights(net):
    return {name: weight.detach().clone() for name, weight in net.named_parameters()}


def moved(net, before):
    return [name for name, weight in net.named_parameters()
            if not torch.equal(weight, before[name])]


def length_of_move(net, before):
    moves = [(weight - before[name]).square().sum() for name, weight in net.named_parameters()]
    return torch.stack(moves).sum().sqrt().item()


def assert_same_gradients(net, twin):
    for (name, weight), other in zip(net.named_parameters(), twin.parameters(), strict=True):
        assert torch.allclose(weight.grad, other.grad, rtol=1e-2, atol=1e-5), name


class Frozen(torch.optim.SGD):
    """An optimizer that does not step: what moves while it is in use, something else moved."""

    def __init__(self, net):
        super().__init__(net.parameters(), lr=1)

    def step(self):
        pass


def test_pretraining_moves_all_of_G_towards_the_target(nets):
    G, _, opt_G, _, L, ab = nets
    before = weights(G)
    losses = [train.pretrain_step(G, opt_G, L, ab, 100, EXACT)["l1"] for _ in range(8)]
    assert len(moved(G, before)) == len(before) and losses[-1] < losses[0]
    assert not losses[0].requires_grad


def test_the_first_step_of_the_gan_phase_is_no_longer_than_those_before(nets):
    """Adam divides by the gradients it remembers: 100 times smaller ones would make a leap."""
    G, D, opt_G, opt_D, L, ab = nets
    for _ in range(8):
        before = weights(G)
        train.pretrain_step(G, opt_G, L, ab, 100, EXACT)
    step = length_of_move(G, before)
    before = weights(G)
    train.gan_step(G, D, opt_G, opt_D, L, ab, 100, EXACT)
    assert length_of_move(G, before) < 2 * step


def test_Ds_step_moves_D_alone_and_Gs_step_moves_G_alone(nets):
    G, D, opt_G, opt_D, L, ab = nets
    before_G = weights(G)
    before_D = weights(D)
    train.gan_step(G, D, Frozen(G), opt_D, L, ab, 100, EXACT)
    assert len(moved(D, before_D)) == len(before_D) and not moved(G, before_G)
    before_D = weights(D)
    train.gan_step(G, D, opt_G, Frozen(D), L, ab, 100, EXACT)
    assert len(moved(G, before_G)) == len(before_G) and not moved(D, before_D)


@pytest.mark.parametrize("phase", ["L1", "GAN"])
def test_the_gradients_of_a_step_are_of_that_step_alone(nets, phase):
    G, D, _, _, L, ab = nets
    D.eval()                                    # or each call would move the spectral norms
    nets_that_learn = (G, D) if phase == "GAN" else (G,)
    found = []
    for _ in range(2):
        if phase == "GAN":
            train.gan_step(G, D, Frozen(G), Frozen(D), L, ab, 100, EXACT)
        else:
            train.pretrain_step(G, Frozen(G), L, ab, 100, EXACT)
        found.append([w.grad.clone() for net in nets_that_learn for w in net.parameters()])
    for first, second in zip(*found, strict=True):
        assert torch.allclose(first, second, rtol=1e-2, atol=1e-5)


def test_G_gets_an_adversarial_gradient(nets):
    """With no weight on L1, all that moves G comes through D: the reference's GAN fails here."""
    G, D, opt_G, _, L, ab = nets
    before = weights(G)
    train.gan_step(G, D, opt_G, Frozen(D), L, ab, 0, EXACT)
    assert len(moved(G, before)) == len(before)


def test_G_descends_the_sum_of_both_losses(nets):
    G, D, _, _, L, ab = nets
    twin_G, twin_D = copy.deepcopy((G, D))
    losses = train.gan_step(G, D, Frozen(G), Frozen(D), L, ab, 10, EXACT)
    fake = twin_G(L)
    for judged in (ab, fake.detach()):          # each call moves the spectral norms a little
        twin_D(L, judged)
    logits = twin_D(L, fake)
    g_gan = F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
    l1 = (fake - ab).abs().mean()
    (g_gan + 10 * l1).backward()
    assert_same_gradients(G, twin_G)
    assert losses["g_gan"].item() == pytest.approx(g_gan.item())
    assert losses["l1"].item() == pytest.approx(l1.item())


def test_D_descends_half_the_sum_of_its_losses_on_real_and_fake(nets):
    G, D, _, _, L, ab = nets
    twin_G, twin_D = copy.deepcopy((G, D))
    losses = train.gan_step(G, D, Frozen(G), Frozen(D), L, ab, 100, EXACT)
    real = twin_D(L, ab)
    fake = twin_D(L, twin_G(L).detach())
    on_real = F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
    on_fake = F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
    d_loss = (on_real + on_fake) / 2
    d_loss.backward()
    assert_same_gradients(D, twin_D)
    assert losses["d_loss"].item() == pytest.approx(d_loss.item())


@pytest.mark.parametrize("logit, taken_for_real", [(0.2, 1), (-0.2, 0)])
def test_the_accuracies_take_a_logit_above_0_for_real(nets, logit, taken_for_real):
    G, D, _, _, L, ab = nets
    D.layers[-1] = nn.Conv2d(512, 1, 4, stride=2, padding=1)       # zero has no spectral norm
    nn.init.zeros_(D.layers[-1].weight)
    nn.init.constant_(D.layers[-1].bias, logit)
    losses = train.gan_step(G, D, Frozen(G), Frozen(D), L, ab, 100, EXACT)
    assert losses["d_real_accuracy"] == taken_for_real
    assert losses["d_fake_accuracy"] == 1 - taken_for_real


def test_the_discriminator_learns_to_tell_real_from_fake(nets):
    _, D, _, opt_D, L, ab = nets
    G = nn.Conv2d(1, 2, 1)                      # what makes the fake is of no importance
    losses = [train.gan_step(G, D, Frozen(G), opt_D, L, ab, 100, EXACT) for _ in range(12)]
    assert losses[-1]["d_loss"] < losses[0]["d_loss"]
    assert losses[-1]["d_real_accuracy"] > 0.9 and losses[-1]["d_fake_accuracy"] > 0.9


@pytest.fixture
def turn():
    """A small G and its D, and what `gan_step` takes of a batch."""
    torch.manual_seed(0)
    parts = new_parts(G=nn.Conv2d(1, 2, 1))
    return parts, (torch.rand(2, 1, 32, 32), torch.rand(2, 2, 32, 32), 100, EXACT)


def test_in_Gs_turn_Ds_weights_get_no_gradient(turn, monkeypatch):
    """They still have that of D's own turn."""
    parts, batch = turn
    own = []

    def gradients():
        return [weight.grad.clone() for weight in parts.D.parameters()]

    monkeypatch.setattr(parts.opt_D, "step", lambda: own.extend(gradients()))
    train.gan_step(parts.G, parts.D, parts.opt_G, parts.opt_D, *batch)
    assert all(map(torch.equal, gradients(), own)) and len(own) > 0


def test_after_Gs_turn_Ds_weights_get_gradients_again(turn):
    parts, batch = turn
    train.gan_step(parts.G, parts.D, parts.opt_G, parts.opt_D, *batch)
    assert all(weight.requires_grad for weight in parts.D.parameters())


class Shared(nn.Module):
    """Wraps a network as DistributedDataParallel does."""

    def __init__(self, net):
        super().__init__()
        self.module = net
        self.calls = 0

    def forward(self, *inputs):
        self.calls += 1
        return self.module(*inputs)


def test_in_Gs_turn_the_inner_network_judges_without_the_other_processes(turn):
    parts, batch = turn
    shared = Shared(parts.D)
    judged = []
    parts.D.register_forward_hook(lambda *call: judged.append(shared.calls))
    train.gan_step(parts.G, shared, parts.opt_G, parts.opt_D, *batch)
    assert judged == [1, 2, 2], "real and fake through all processes, then what G made, alone"


class NewTensors(TorchFunctionMode):
    """Notes where `torch.tensor` puts its numbers: on a GPU, it waits for the queue."""

    def __init__(self):
        super().__init__()
        self.places = set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is torch.tensor:
            self.places.add(result.device.type)
        return result


PHASES = ("pretrain", "gan", "repair")


@pytest.mark.parametrize("old_film", [False, True])
@pytest.mark.parametrize("phase", PHASES)
def test_no_step_waits_for_the_device_once_the_epochs_order_is_there(monkeypatch, phase, old_film):
    """All of a step but Adam, on "meta", which cannot be waited for."""
    with torch.device("meta"):
        parts = new_repair_parts() if phase == "repair" else new_parts()
        photos = torch.empty(8, 3, 32, 32, dtype=torch.uint8)
    for part in vars(parts).values():
        if isinstance(part, torch.optim.Optimizer):
            monkeypatch.setattr(part, "step", lambda: None)
    cpu_generator = data.seeded
    monkeypatch.setattr(data, "seeded", lambda seed, device="cpu": cpu_generator(seed))
    with Waits() as waits, NewTensors() as new:
        fit_as_rank_1(parts, photos, phase, old_film=old_film)
    assert new.places <= {"cpu"}
    moves = ["aten._to_copy.default"] * 2
    assert waits.seen == moves, "the order of the photos, and which are mirrored"


@pytest.mark.parametrize("phase", PHASES)
def test_no_operation_of_a_step_waits_not_even_of_adam_or_the_ema(phase):
    parts = new_repair_parts() if phase == "repair" else new_parts()
    photos = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    fit_as_rank_1(parts, photos, phase, old_film=True)                      # Adam makes its state
    with Waits() as waits:
        fit_as_rank_1(parts, photos, phase, old_film=True)
    assert waits.seen == []


# A whole run


@pytest.fixture
def no_steps(monkeypatch):
    """Epochs train nothing."""
    stub(monkeypatch, train, "pretrain_step", result={"l1": torch.zeros(())})
    stub(monkeypatch, train, "update_ema")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The whole program, both phases, 12 steps an epoch; and what it called on the way."""
    folder = tmp_path_factory.mktemp("trained")
    options = "--limit 60 --val 10 --lr 5e-4 --save-seconds 1e9 --out out".split()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        calls = SimpleNamespace(
            orders=watch(patch, data, "shuffle"),
            gathered=watch(patch, data, "gather"),
            evaluations=watch(patch, train, "evaluate"),
            seeds=watch(patch, data, "seeded"),
            emas=watch(patch, train, "update_ema"),
            named=watch(patch, os, "replace")
        )
        assert run_train("demo", *epochs(3, 2), *options) == 0
    out = folder / "out"
    return SimpleNamespace(folder=folder, out=out, calls=calls, checkpoint=checkpoint(out))


def test_a_run_logs_every_epoch_with_every_figure(trained):
    rows = read_log(trained.out)
    assert [row["phase"] for row in rows] == ["gray", *["pretrain"] * 3, *["gan"] * 2]
    assert [row["epoch"] for row in rows] == list(range(6))
    held_out = {"phase", "epoch", "ab_error", "psnr", "colorfulness", "colorfulness_truth"}
    timed = held_out | {"l1", "seconds", "pictures_per_second"}
    gan = timed | {"d_loss", "g_gan", "d_real_accuracy", "d_fake_accuracy"}
    assert rows[0].keys() == held_out and rows[1].keys() == timed and rows[-1].keys() == gan
    assert 0 < rows[-1]["d_fake_accuracy"] <= 1


def test_a_run_beats_the_gray_baseline_on_held_out_photos(trained):
    rows = read_log(trained.out)
    for row in (rows[3], rows[5]):
        assert row["ab_error"] < 0.5 * rows[0]["ab_error"]
        assert row["psnr"] > rows[0]["psnr"] + 2
        assert row["colorfulness"] > 15


def test_it_trains_on_one_part_of_the_photos_and_is_judged_on_the_other(trained):
    train_indices, val_indices = data.split(60, 10, 0)
    trained_on = [call["indices"] for call in trained.calls.orders]
    evaluated_on = [call["photos"].val_indices for call in trained.calls.evaluations]
    assert len(trained_on) == 5 and len(evaluated_on) == 6, "gray is evaluated, too"
    assert all(torch.equal(indices, train_indices) for indices in trained_on)
    assert all(torch.equal(indices, val_indices) for indices in evaluated_on)
    assert not set(train_indices.tolist()) & set(val_indices.tolist())
    # In the steps, too. (metrics.py and train.py have a `gather` of their own.)
    assert len(trained.calls.gathered) == 5 * 12
    for call in trained.calls.gathered:
        assert set(call["indices"].tolist()) <= set(train_indices.tolist())


def test_every_epoch_has_an_order_of_its_own(trained):
    orders = [data.shuffle(**call)[0] for call in trained.calls.orders]
    assert len(orders) == 5
    assert not any(torch.equal(one, other) for one, other in combinations(orders, 2))


def test_every_step_of_every_process_draws_film_and_damage_of_its_own(
    trained, monkeypatch, no_steps
):
    def seeds_of_steps(calls):
        """Those of an epoch's order have two numbers."""
        return [call["seed"] for call in calls if len(call["seed"]) == 4]

    seeds = seeds_of_steps(trained.calls.seeds)
    assert len(seeds) == 5 * 12
    photos = torch.zeros(4 * 12, 3, 32, 32, dtype=torch.uint8)
    calls = watch(monkeypatch, data, "seeded")
    fit_as_rank_1(new_parts(G=nn.Conv2d(1, 2, 1)), photos, "pretrain")
    seeds += seeds_of_steps(calls)
    assert len(seeds) == len(set(seeds)) == 6 * 12


def test_the_ema_counts_the_steps_of_all_epochs(trained):
    steps = [call["step"] for call in trained.calls.emas]
    assert steps == list(range(1, 5 * 12 + 1))


def test_files_are_saved_where_a_phase_ends_and_the_checkpoint_last(trained):
    """It commits the others. No time passed to save in between: --save-seconds is 1e9."""
    named = [Path(call["dst"]) for call in trained.calls.named]
    assert [path.relative_to("out").as_posix() for path in named if path.parts[0] == "out"] == [
        "skipped.txt", "pretrained.pt",
        "samples/003_pretrain.png", "curves.png", "log.jsonl", "generator.pt", "checkpoint.pt",
        "samples/005_gan.png", "curves.png", "log.jsonl", "generator.pt", "checkpoint.pt"
    ]


def test_samples_are_always_of_the_same_photos(trained):
    grids = []
    for name in ("003_pretrain.png", "005_gan.png"):
        grids.append(np.asarray(Image.open(trained.out / "samples" / name)).astype(int))
    # Four rows of two photos, each as gray, ours, truth:
    assert grids[0].shape == grids[1].shape == (4 * 34 + 2, 6 * 34 + 2, 3)
    assert (grids[0][:2] == 255).all() and (grids[0][34:36] == 255).all(), "white between them"
    for column, (same, colored) in enumerate([(True, False), (False, True), (True, True)] * 2):
        first, last = (grid[2:34, 2 + 34 * column : 34 + 34 * column] for grid in grids)
        assert np.array_equal(first, last) == same
        assert (np.ptp(last, axis=2).max() > 20) == colored


def test_the_generator_file_is_plain_data_and_holds_the_ema(trained):
    """In float16, except BatchNorm's statistics."""
    saved = load_saved(trained.out / "generator.pt", "generator")
    assert saved["config"]["size"] == 32 and saved["config"]["pretrain_epochs"] == 3
    json.dumps(saved["config"])

    def holds(weights):
        assert saved["weights"].keys() == weights.keys()
        return all(torch.allclose(weight.float(), weights[name].float(), rtol=1e-3, atol=1e-7)
                   for name, weight in saved["weights"].items())

    assert holds(trained.checkpoint["ema"]) and not holds(trained.checkpoint["G"])


def test_the_log_tells_of_the_generator_that_is_shipped(trained, monkeypatch):
    monkeypatch.chdir(trained.folder)
    assert_figures("out/generator.pt", read_log("out")[-1])


def assert_figures(generator, row):
    """A row of the log has the figures of this generator file."""
    images, _, _, _ = data.load_photos("demo", 32, 60)
    validation = held_out(images)._replace(val_indices=data.split(60, 10, 0)[1])
    figures = evaluate(infer.load_generator(generator, CPU), validation, CPU)
    assert figures == pytest.approx({name: row[name] for name in figures}, rel=2e-3)


def test_the_generator_before_the_gan_is_kept_and_colors(trained, monkeypatch):
    """pretrained.pt is the EMA at the end of L1."""
    monkeypatch.chdir(trained.folder)
    assert_figures("out/pretrained.pt", read_log("out")[3])
    assert load_saved("out/pretrained.pt", "generator")["config"] == trained.checkpoint["config"]
    demo.scene(300).save("in.png")
    assert run_infer("out/pretrained.pt", "in.png", "out.png") == 0


def test_both_optimizers_are_the_papers_adam(trained):
    for name in ("opt_G", "opt_D"):
        (group,) = trained.checkpoint[name]["param_groups"]
        assert group["betas"] == (0.5, 0.999) and group["lr"] == 5e-4
        assert group["weight_decay"] == 0


def test_a_trained_generator_colors_a_photo_through_infers_program(trained, monkeypatch):
    monkeypatch.chdir(trained.folder)
    demo.scene(300).convert("L").save("gray.png")
    assert run_infer("out/generator.pt", "gray.png", "colored.png") == 0
    colored = np.asarray(Image.open("colored.png")).astype(int)
    gray = np.asarray(Image.open("gray.png").convert("RGB")).astype(int)
    truth = np.asarray(demo.scene(300)).astype(int)
    assert colored.shape == truth.shape
    assert np.abs(colored - truth).mean() < 0.7 * np.abs(gray - truth).mean()


# What the options do


def test_the_end_names_the_samples_and_the_best_epoch(
    scenes, work, capsys, monkeypatch, saved, no_steps
):
    stub(monkeypatch, train, "evaluate", result={"ab_error": 20.0, "psnr": 20.0})
    assert run_train(scenes, *epochs(1, 0)) == 0
    first, epoch, end = capsys.readouterr().out.splitlines()
    assert "20 photos to train on, 4 to validate on, 0 skipped" in first
    assert epoch.startswith("pretrain 1/1: l1 ")
    samples = f"runs/{scenes.name}/samples"
    assert end == f"done: see {samples}; the lowest ab_error, 20.00, was that of epoch 0"


@pytest.mark.parametrize(
    "errors, end",
    [
        ([20.0, 15.0, 20.5], "done, but the ab_error is above the baseline"),
        ([20.0, 25.0, 19.5], "done: see out/samples")
    ]
)
def test_the_last_line_tells_whether_the_colors_are_better_than_gray(
    scenes, work, capsys, monkeypatch, saved, no_steps, errors, end
):
    def scores(*args):
        return {"ab_error": errors[len(calls) - 1], "psnr": 20.0}

    calls = watch(monkeypatch, train, "evaluate", instead=scores)
    assert run_train(scenes, *epochs(2, 0), "--out", "out") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(end) and len(calls) == 3


def test_a_limit_of_0_is_all_photos(scenes, work, capsys, monkeypatch):
    no_training(monkeypatch)
    assert run_train(scenes, "--limit", 0) == 0
    assert "20 photos to train on, 4 to validate on" in capsys.readouterr().out


@pytest.fixture
def epochs_of_25_seconds(monkeypatch, no_steps):
    """Epochs take 25 seconds, and train nothing."""
    clock = Clock()
    monkeypatch.setattr(train, "time", clock)
    monkeypatch.setattr(run_module, "time", clock)
    stub(monkeypatch, train, "gan_step", result={"l1": torch.zeros(())})
    watch(monkeypatch, data, "shuffle", before=lambda epoch: clock.sleep(25))


def test_a_run_saves_at_the_first_epoch_that_ends_so_many_seconds_after_the_last_save(
    scenes, work, saved, epochs_of_25_seconds
):
    assert run_train(scenes, *epochs(5, 7), "--save-seconds", 70, "--out", "out") == 0
    names = [path.name[:3] for path in sorted(work.glob("out/samples/*"))]
    assert names == ["003", "005", "008", "011", "012"], "the 5th and the 12th end a phase"


@pytest.mark.parametrize("batch_size, photos", [(3, 18), (32, 20)])
def test_the_log_counts_the_photos_that_were_trained_on(
    scenes, work, saved, epochs_of_25_seconds, batch_size, photos
):
    """20 in 25 seconds, but none of a last short batch, and never more than there are."""
    assert run_train(scenes, *epochs(1, 0), "--batch-size", batch_size, "--out", "out") == 0
    assert read_log("out")[1]["pictures_per_second"] == photos / 25


def test_every_step_of_the_gan_gives_L1_the_weight_that_was_asked_for(
    scenes, work, monkeypatch, saved
):
    steps = stub(monkeypatch, train, "gan_step", result={"l1": torch.zeros(())})
    assert run_train(scenes, *epochs(0, 1), "--l1-weight", 7) == 0
    assert [step["l1_weight"] for step in steps] == [7] * 5


@pytest.mark.parametrize("precision, is_bf16", [("bf16", True), ("fp32", False)])
def test_a_run_has_the_precision_that_was_asked_for_and_keeps_no_cast_weights(
    scenes, work, monkeypatch, precision, is_bf16
):
    """Autocast's cache would show every step the weights from before the first."""
    seen = []

    def note_autocast(number):
        seen.append((torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()))

    watch(monkeypatch, Generator, "forward", before=note_autocast)
    watch(monkeypatch, Discriminator, "forward", before=note_autocast)
    options = [*epochs(1, 1), "--batch-size", 20]
    assert run_train(scenes, *options, "--precision", precision) == 0
    steps_evaluations_and_samples = 2 + 2 + 2
    judgments = 3
    assert seen == [(is_bf16, False)] * (steps_evaluations_and_samples + judgments)


@pytest.mark.parametrize("seed", ["-1", "99999999999999999999"])
def test_any_integer_is_a_seed(scenes, work, monkeypatch, seed):
    no_training(monkeypatch)
    assert run_train(scenes, "--seed", seed) == 0


def test_results_are_in_a_folder_of_the_photos_folders_name_even_if_that_is_a_dot(
    work, monkeypatch
):
    for index in range(5):
        save_noise(f"album/{index}.png", seed=index)
    monkeypatch.chdir("album")
    no_training(monkeypatch)
    assert run_train(".", "--val", 1) == 0
    assert Path("runs/album/skipped.txt").exists()


def test_the_defaults_are_the_papers_and_the_notebooks():
    config, saved = parse("--data", "photos")
    assert saved is None
    assert (config.pretrain_epochs, config.gan_epochs) == (20, 100)
    assert (config.size, config.batch_size, config.lr, config.l1_weight) == (256, 16, 2e-4, 100)


def test_help_tells_the_defaults(capsys):
    with pytest.raises(SystemExit):
        train.main(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    for option in ("epochs of G alone, on L1 (20)", "after them (100)", "Adam optimizers (0.0002)"):
        assert option in told


def test_a_run_deletes_nothing_of_anybody_else(scenes, work, saved, no_steps):
    for name in ("mine.part", ".mine.part", "deep/.123.part"):
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_text("mine")
    assert run_train(scenes, *epochs(1, 0), "--out", ".") == 0
    for name in ("mine.part", ".mine.part", "deep/.123.part"):
        assert (work / name).read_text() == "mine"


def test_photos_whose_names_are_in_any_encoding_are_listed(work, monkeypatch):
    for index in range(5):
        save_noise(f"photos/{index}.jpg", seed=index)
    with open(os.fsencode("photos/") + b"caf\xe9.jpg", "wb") as file:
        file.write(b"no picture")
    (work / "photos/été 家族.jpg").write_text("no picture")
    no_training(monkeypatch)
    assert run_train("photos/", "--val", 1, "--out", "out") == 0
    first, second = (work / "out/skipped.txt").read_text(encoding="utf-8").splitlines()
    assert first.startswith("caf\\udce9.jpg\t") and second.startswith("été 家族.jpg\t")


def test_a_frozen_encoder_keeps_the_weights_that_it_starts_with(work, scenes, saved):
    two_steps = ["--limit", 10, "--val", 2, *epochs(1, 1)]         # of each phase
    assert run_train(scenes, *two_steps, "--freeze-encoder") == 0
    torch.manual_seed(0)
    started = Generator(pretrained=False).state_dict()
    for name, weight in saved["checkpoint.pt"]["G"].items():
        is_frozen = name.startswith("encoder.") and "running" not in name and "num" not in name
        assert torch.equal(weight, started[name]) == is_frozen, name


# What goes wrong


def test_photos_come_before_the_weights_of_imagenet(scenes, work, capsys, weights_file):
    """Whoever mistypes --data without a network reads of --data."""
    weights_file.write_bytes(b"<html>404</html>")
    assert run(train, "--data", "nowhere", *TINY_PRETRAINED, *epochs(1, 0)) == 1
    assert "--data nowhere: no such folder" in error_line(capsys.readouterr().err)
    assert run(train, "--data", scenes, *TINY_PRETRAINED, *epochs(1, 0)) == 1
    assert error_line(capsys.readouterr().err).startswith("cannot load the ImageNet weights of res")


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(
    scenes, work, capsys, monkeypatch, saved
):
    def break_the_8th(*args):
        return {"l1": torch.tensor(math.nan if len(steps) == 8 else 0.5)}

    steps = watch(monkeypatch, train, "pretrain_step", instead=break_the_8th)
    assert run_train(scenes, *epochs(3, 0), "--save-seconds", 0, "--out", "out") == 1
    message = error_line(capsys.readouterr().err)
    assert "not finite" in message and "epoch 2" in message
    assert len(saved["checkpoint.pt"]["rows"]) == 2 == len(read_log("out"))


def test_weights_that_the_last_step_spoiled_are_not_saved(
    scenes, work, capsys, monkeypatch, saved
):
    """Its loss was measured before it; the held-out photos are judged after it."""
    def spoil_in_the_10th(G, *rest):
        if len(steps) == 10:
            nn.init.constant_(G.head.bias, math.nan)
        return {"l1": torch.tensor(0.5)}

    steps = watch(monkeypatch, train, "pretrain_step", instead=spoil_in_the_10th)
    assert run_train(scenes, *epochs(2, 0), "--save-seconds", 0, "--out", "out") == 1
    message = error_line(capsys.readouterr().err)
    assert message.startswith("epoch 2: the loss is not finite")
    assert len(saved["checkpoint.pt"]["rows"]) == 2


@pytest.mark.parametrize(
    "options, words",
    [
        ("--size 100", "--size 100 is not a multiple of 32"),
        ("--size 0", "--size 0 is not above 0"),
        ("--batch-size 0", "--batch-size 0 is not above 0"),
        ("--val 0", "--val 0 is not above 0"),
        ("--limit -1", "--pretrain-epochs, --gan-epochs and --limit are 0 or more"),
        ("--val 9", "at most a fifth, 4"),
        ("--data nowhere", "no such folder"),
        ("--device nonsense", "--device nonsense"),
        ("--sise 3", "unrecognized arguments: --sise 3"),
        ("--pretrain-epochs 0 --gan-epochs 0", "--pretrain-epochs and --gan-epochs are both 0"),
        ("--pretrain-epochs -1", "--pretrain-epochs, --gan-epochs and --limit are 0 or more"),
        ("--size 32 --batch-size 1", "--size 32 needs a --batch-size of 2 or more"),
        ("--lr nan", "--lr nan is not above 0"),
        ("--l1-weight 0", "--l1-weight 0.0 is not above 0"),
        ("--repeat sub", "--repeat sub is not of the form SUBFOLDER=K"),
        ("--repeat sub=0", "--repeat sub=0 is not of the form SUBFOLDER=K"),
        ("--repeat none=2", "--repeat none=2: no photo to train on is in none/")
    ]
)
def test_mistakes_are_one_clear_line(scenes, work, capsys, options, words):
    assert run_train(scenes, *epochs(1, 0), *options.split()) in (1, 2)
    assert words in error_line(capsys.readouterr().err)


@pytest.mark.parametrize("out", ["album/out", "album/deep/out", "album"])
def test_results_among_the_photos_are_refused(work, capsys, out):
    """They would join the photos, and a run could not be resumed. In runs/ they do not."""
    (work / "album").mkdir()
    assert run_train("album", "--out", out) == 2
    message = error_line(capsys.readouterr().err)
    assert message.startswith(f"--out {out} lies among the photos: choose a folder outside them")
    for data_and_out in (("album", "album2/out"), (".", "runs/out"), ("runs/a", "runs/b")):
        config, _ = parse("--data", data_and_out[0], "--out", data_and_out[1])
        assert str(config.out) == data_and_out[1]


@pytest.mark.parametrize(
    "program, arguments",
    [("train.py", ["--data", "nosuch"]), ("infer.py", ["nosuch.png", "out.png"])]
)
def test_a_programs_exit_code_reaches_the_shell(work, program, arguments):
    process = run_python(ROOT / program, *arguments, "--device", "cpu", cwd=work)
    assert process.returncode == 1
    assert "nosuch" in error_line(process.stderr)


def test_four_photos_are_too_few(work, capsys):
    for index in range(4):
        save_noise(f"photos/{index}.png", seed=index)
    assert run_train("photos", *epochs(1, 0), "--val", 1) == 1
    assert "at least 5 photos are needed" in error_line(capsys.readouterr().err)


def test_a_failure_to_write_the_last_epochs_files_is_reported(
    work, scenes, capsys, monkeypatch, no_steps
):
    full_disk = OSError(28, "No space left on device", "checkpoint.pt")
    monkeypatch.setattr(run_module, "save_weights", raising(full_disk))
    assert run_train(scenes, *epochs(1, 0)) == 1
    message = error_line(capsys.readouterr().err)
    assert message == "[Errno 28] No space left on device: 'checkpoint.pt'"


def test_out_of_memory_names_a_smaller_batch(work, scenes, capsys, monkeypatch):
    monkeypatch.setattr(train, "pretrain_step", out_of_memory)
    assert run_train(scenes, *epochs(1, 0)) == 1
    hint = "try a smaller --batch-size, with --resume if the run has begun"
    assert error_line(capsys.readouterr().err) == f"out of memory: {hint}"
