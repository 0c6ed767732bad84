"""What a step moves, what a run leaves behind, and that it learns."""

import copy
import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import infer
import train
from pix2pix import demo
from pix2pix.color import encode
from pix2pix.models import Discriminator, Generator
from pix2pix.runtime import load_saved
from tests.conftest import TINY, read_log


@pytest.fixture
def nets():
    torch.manual_seed(0)
    G, D = Generator(pretrained=False), Discriminator()
    opt_G, opt_D = (torch.optim.Adam(net.parameters(), 2e-4, betas=(0.5, 0.999)) for net in (G, D))
    L, ab = encode(torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8))
    return G, D, opt_G, opt_D, L, ab


def moved(net, before):
    return [name for name, weight in net.named_parameters() if not torch.equal(weight, before[name])]


def weights(net):
    return {name: weight.detach().clone() for name, weight in net.named_parameters()}


def test_pretraining_moves_all_of_G_towards_the_target(nets):
    G, _, opt_G, _, L, ab = nets
    before = weights(G)
    losses = [train.pretrain_step(G, opt_G, L, ab)["l1"] for _ in range(8)]
    assert len(moved(G, before)) == len(before) and losses[-1] < losses[0]
    assert not losses[0].requires_grad


class Frozen(torch.optim.SGD):
    """An optimizer that does not step: what moves while it is in use, something else moved."""

    def __init__(self, net):
        super().__init__(net.parameters(), lr=1)

    def step(self):
        pass


def test_Ds_step_moves_D_alone_and_Gs_step_moves_G_alone(nets):
    G, D, opt_G, opt_D, L, ab = nets
    before_G, before_D = weights(G), weights(D)
    train.gan_step(G, D, Frozen(G), opt_D, L, ab, 100)
    assert len(moved(D, before_D)) == len(before_D) and not moved(G, before_G)
    before_D = weights(D)
    train.gan_step(G, D, opt_G, Frozen(D), L, ab, 100)
    assert len(moved(G, before_G)) == len(before_G) and not moved(D, before_D)


def test_G_gets_an_adversarial_gradient(nets):
    """With no weight on L1 everything that moves G comes through D: the reference's GAN phase fails here."""
    G, D, opt_G, _, L, ab = nets
    before = weights(G)
    losses = train.gan_step(G, D, opt_G, Frozen(D), L, ab, 0)
    assert len(moved(G, before)) == len(before)
    assert losses["gradient_ratio"] == torch.inf  # nothing else to compare it with


def test_gradient_ratio_is_adversarial_over_weighted_l1_at_Gs_output(nets):
    G, D, _, _, L, ab = nets
    twin_G, twin_D = copy.deepcopy(G), copy.deepcopy(D)
    ratio = train.gan_step(G, D, Frozen(G), Frozen(D), L, ab, 50)["gradient_ratio"]
    fake = twin_G(L)
    g_gan = torch.nn.functional.binary_cross_entropy_with_logits(twin_D(L, fake), torch.ones(2, 1, 5, 5))
    (from_gan,) = torch.autograd.grad(g_gan, fake)
    assert ratio == pytest.approx((from_gan.norm() / (50 / ab.numel() ** 0.5)).item(), rel=1e-3)


def test_G_descends_the_sum_of_both_losses(nets):
    G, D, _, _, L, ab = nets
    twin_G, twin_D = copy.deepcopy(G), copy.deepcopy(D)
    train.gan_step(G, D, Frozen(G), Frozen(D), L, ab, 10)
    fake = twin_G(L)
    g_gan = torch.nn.functional.binary_cross_entropy_with_logits(twin_D(L, fake), torch.ones(2, 1, 5, 5))
    (g_gan + 10 * (fake - ab).abs().mean()).backward()
    for (name, weight), twin in zip(G.named_parameters(), twin_G.parameters()):
        assert torch.allclose(weight.grad, twin.grad, rtol=1e-2, atol=1e-5), name


def test_the_discriminator_learns_to_tell_real_from_fake(nets):
    G, D, _, opt_D, L, ab = nets
    losses = [train.gan_step(G, D, Frozen(G), opt_D, L, ab, 100) for _ in range(12)]
    assert losses[-1]["d_loss"] < losses[0]["d_loss"]
    assert losses[-1]["d_real_accuracy"] > 0.9 and losses[-1]["d_fake_accuracy"] > 0.9


def test_the_average_follows_G_with_a_memory_that_grows(nets):
    G = nets[0]
    average = copy.deepcopy(G)
    name = "head.weight"
    start = G.state_dict()[name].clone()
    with torch.no_grad():
        G.head.weight.add_(1)
        G.encoder.bn1.running_mean.add_(1)
    train.update_average(average, G, 1)
    assert torch.allclose(average.state_dict()[name], start + 0.9)
    assert torch.allclose(average.encoder.bn1.running_mean, torch.tensor(0.9))
    old = average.state_dict()[name].clone()
    train.update_average(average, G, 10**6)
    assert torch.allclose(average.state_dict()[name] - old, torch.tensor(0.0001), atol=1e-5)


def test_evaluate_of_the_truth_is_perfect_and_of_gray_is_the_baseline():
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    indices = torch.tensor([4, 1, 2])
    _, truth = encode(images[indices])
    perfect = iter([truth[:2], truth[2:]])
    scores = train.evaluate(lambda L: next(perfect), images, indices, 2, torch.device("cpu"))
    assert (
        scores["ab_error"] == 0
        and scores["psnr"] > 100
        and scores["colorfulness"] == pytest.approx(scores["colorfulness_truth"])
    )
    baseline = train.evaluate(train.gray, images, indices, 2, torch.device("cpu"))
    assert baseline["ab_error"] == pytest.approx((128 * truth.abs().mean()).item(), rel=1e-4)
    assert baseline["colorfulness"] < 0.5 < baseline["colorfulness_truth"] and baseline["psnr"] < 30


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The whole program, both phases, on a few demo scenes."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        options = "--data demo --limit 60 --val 10 --size 64 --batch-size 8 --pretrain-epochs 6 --gan-epochs 2"
        options += " --no-pretrained --out out --device cpu --precision fp32"
        assert train.main(options.split()) == 0
    return folder


def test_a_run_logs_every_epoch_with_every_figure(trained):
    rows = read_log(trained / "out")
    assert [row["phase"] for row in rows] == ["gray", *["pretrain"] * 6, *["gan"] * 2]
    assert [row["epoch"] for row in rows] == list(range(9))
    held_out = {"phase", "epoch", "ab_error", "psnr", "colorfulness", "colorfulness_truth"}
    timed = held_out | {"l1", "seconds", "pictures_per_second"}
    gan = timed | {"d_loss", "g_gan", "d_real_accuracy", "d_fake_accuracy", "gradient_ratio"}
    assert rows[0].keys() == held_out and rows[1].keys() == timed and rows[-1].keys() == gan
    assert rows[-1]["gradient_ratio"] > 0 and 0 < rows[-1]["d_fake_accuracy"] <= 1


def test_a_run_beats_the_gray_baseline_on_held_out_photos(trained):
    rows = read_log(trained / "out")
    for row in (rows[6], rows[-1]):
        assert (
            row["ab_error"] < 0.5 * rows[0]["ab_error"]
            and row["psnr"] > rows[0]["psnr"] + 2
            and row["colorfulness"] > 15
        )


def test_a_run_leaves_samples_of_the_same_photos_after_every_epoch(trained):
    names = sorted(path.name for path in (trained / "out/samples").iterdir())
    assert len(names) == 8 and names[0] == "001_pretrain.png" and names[-1] == "008_gan.png"
    first, last = (np.asarray(Image.open(trained / "out/samples" / name)).astype(int) for name in (names[0], names[-1]))
    assert first.shape == last.shape == (4 * 68 + 4, 6 * 68 + 4, 3)  # four rows of two photos: gray, ours, truth
    for column, (same, colored) in enumerate([(True, False), (False, True), (True, True)] * 2):
        tile, early = (grid[4:68, 4 + 68 * column : 68 + 68 * column] for grid in (last, first))
        assert np.array_equal(tile, early) == same
        assert (np.ptp(tile, axis=2).max() > 20) == colored


def test_the_end_names_the_samples_the_generator_and_the_command_to_try(scenes, work, capsys):
    assert train.main(["--data", str(scenes), *TINY, "--pretrain-epochs", "1", "--gan-epochs", "0"]) == 0
    out, lines = f"runs/{scenes.name}", capsys.readouterr().out.splitlines()
    assert "20 photos to train on, 4 held out, 0 left out" in lines[0]
    assert lines[1].startswith("pretrain 1/1: l1 ")
    assert f"look at {out}/samples, and try python infer.py IN.jpg OUT.jpg --checkpoint {out}/generator.pt" in lines[-1]
    assert len(lines) == 3


def test_the_generator_file_is_plain_data_and_holds_the_average(trained):
    saved = load_saved(trained / "out/generator.pt", "generator")
    whole = load_saved(trained / "out/checkpoint.pt", "checkpoint")
    assert saved["config"]["size"] == 64 and saved["config"]["epochs"] == 8
    assert all(torch.equal(weight, whole["average"][name]) for name, weight in saved["weights"].items())
    assert not torch.equal(whole["average"]["head.weight"], whole["G"]["head.weight"])
    json.dumps(saved["config"])


def test_a_trained_generator_colours_a_photo_through_infers_program(trained, monkeypatch):
    monkeypatch.chdir(trained)
    demo.scene(300).convert("L").save("gray.png")
    assert infer.main(["gray.png", "coloured.png", "--checkpoint", "out/generator.pt"]) == 0
    coloured = np.asarray(Image.open("coloured.png")).astype(int)
    truth = np.asarray(demo.scene(300)).astype(int)
    gray = np.asarray(Image.open("gray.png").convert("RGB")).astype(int)
    assert coloured.shape == truth.shape
    assert np.abs(coloured - truth).mean() < 0.7 * np.abs(gray - truth).mean()


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(scenes, work, capsys, monkeypatch):
    step, calls = train.pretrain_step, []

    def break_later(*args):
        calls.append(1)
        losses = step(*args)
        return losses if len(calls) != 8 else {"l1": losses["l1"] * float("nan")}

    monkeypatch.setattr(train, "pretrain_step", break_later)
    assert (
        train.main(["--data", str(scenes), *TINY, "--pretrain-epochs", "3", "--gan-epochs", "0", "--out", "out"]) == 1
    )
    error = capsys.readouterr().err
    assert error.startswith("error:") and "not finite" in error and "epoch 2" in error and error.count("\n") == 1
    assert len(load_saved(work / "out/checkpoint.pt", "checkpoint")["rows"]) == 2 == len(read_log("out"))


@pytest.mark.parametrize(
    "options, words",
    [
        (["--size", "100"], "--size is a multiple of 32"),
        (["--batch-size", "0"], "all other numbers are above 0"),
        (["--val", "0"], "all other numbers are above 0"),
        (["--limit", "0"], "all other numbers are above 0"),
        (["--val", "9"], "at most a fifth, 4"),
        (["--data", "nowhere"], "no such folder"),
        (["--device", "nonsense"], "--device nonsense"),
        (["--sise", "3"], "unrecognized arguments: --sise 3"),
        (["--pretrain-epochs", "0", "--gan-epochs", "0"], "are above 0"),
        (["--lr", "nan"], "are above 0"),
        (["--l1-weight", "0"], "are above 0"),
        (["--seed", "99999999999999999999"], "--seed from 0 to 2^63"),
    ],
)
def test_mistakes_are_one_clear_line(scenes, work, capsys, options, words):
    code = train.main(["--data", str(scenes), *TINY, *options])
    error = capsys.readouterr().err
    assert code in (1, 2) and error.startswith("error: ") and words in error and error.count("\n") == 1


def test_a_run_deletes_nothing_of_anybody_else(scenes, work):
    for name in ("mine.part", ".mine.part", "deep/.123.part"):
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_text("mine")
    assert train.main(["--data", str(scenes), *TINY, "--out", ".", "--pretrain-epochs", "1", "--gan-epochs", "0"]) == 0
    assert all((work / name).read_text() == "mine" for name in ("mine.part", ".mine.part", "deep/.123.part"))


def test_names_in_any_encoding_are_listed(work):
    (work / "photos").mkdir()
    for index in range(5):
        demo.scene(index).save(work / f"photos/{index}.jpg")
    with open(os.fsencode("photos/") + b"caf\xe9.jpg", "wb") as file:
        file.write(b"no picture")
    (work / "photos/été 家族.jpg").write_text("no picture")
    options = ["--val", "1", "--pretrain-epochs", "1", "--gan-epochs", "0", "--out", "out"]
    assert train.main(["--data", "photos/", *TINY, *options]) == 0
    lines = (work / "out/skipped.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2 and lines[0].startswith("caf\\udce9.jpg\t") and lines[1].startswith("été 家族.jpg\t")


def test_compiled_networks_train_the_same(work, scenes, monkeypatch):
    """With Dynamo's eager backend, which needs no C++ compiler: the same figures, and both networks compiled."""
    compiled, compile_ = [], torch.nn.Module.compile

    def compile_eagerly(net):
        compiled.append(type(net))
        compile_(net, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", compile_eagerly)
    options = ["--data", str(scenes), *TINY, "--pretrain-epochs", "0", "--gan-epochs", "1"]
    assert train.main([*options, "--out", "plain"]) == 0 and not compiled
    assert train.main([*options, "--out", "compiled", "--compile"]) == 0 and compiled == [Generator, Discriminator]
    for plain, row in zip(read_log("plain"), read_log("compiled"), strict=True):
        figures = row.keys() - {"seconds", "pictures_per_second"}
        assert {name: plain[name] for name in figures} == {name: row[name] for name in figures}
    saved = load_saved(work / "compiled/generator.pt", "generator")
    Generator(pretrained=False).load_state_dict(saved["weights"])


def test_files_are_written_beside_the_next_epoch_and_hold_their_own(work, scenes, monkeypatch):
    """The writing of the first epoch waits here until the second has nearly trained, and notices nothing of it."""
    save_epoch, gan_step, steps, trained = train.save_epoch, train.gan_step, [], threading.Event()

    def step(*args):
        losses = gan_step(*args)
        steps.append(losses)
        if len(steps) == 9:                        # 5 of the first epoch
            trained.set()
        return losses

    def save_later(out, state, tiles):
        if state["rows"][-1]["epoch"] == 1:
            assert trained.wait(timeout=60)
        save_epoch(out, state, tiles)
        shutil.copy(out / "checkpoint.pt", f"epoch{state['rows'][-1]['epoch']}.pt")

    options = ["--data", str(scenes), *TINY, "--pretrain-epochs", "0", "--gan-epochs"]
    assert train.main([*options, "1", "--out", "one"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(train, "gan_step", step)
        patch.setattr(train, "save_epoch", save_later)
        assert train.main([*options, "2", "--out", "two"]) == 0
    one, first = (load_saved(Path(name), "checkpoint") for name in ("one/checkpoint.pt", "epoch1.pt"))
    assert all(torch.equal(weight, first["G"][name]) for name, weight in one["G"].items())
    assert torch.equal(one["opt_D"]["state"][0]["exp_avg"], first["opt_D"]["state"][0]["exp_avg"])
    assert len(first["rows"]) == 2 and len(read_log("two")) == 3


def test_what_goes_wrong_with_the_last_epochs_files_is_told(work, scenes, capsys, monkeypatch):
    def fail(*args):
        raise OSError(28, "No space left on device", "checkpoint.pt")

    monkeypatch.setattr(train, "save_epoch", fail)
    assert train.main(["--data", str(scenes), *TINY, "--pretrain-epochs", "1", "--gan-epochs", "0"]) == 1
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device: 'checkpoint.pt'\n"


def test_a_batch_of_another_precision_than_the_runs_own_is_refused(work, scenes, capsys):
    options = ["--data", str(scenes), *TINY, "--pretrain-epochs", "1", "--gan-epochs", "0", "--out", "out"]
    assert train.main(options) == 0
    assert train.main([*options, "--resume", "--precision", "bf16"]) == 2
    assert "--precision bf16 contradicts the run to resume: fp32" in capsys.readouterr().err
