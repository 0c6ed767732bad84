"""--restore teaches a generator to repair, in the same files; infer.py --repair does."""
import contextlib
import copy

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

import infer
import train
from pix2pix import demo, repair
from pix2pix.color import decode_gray, encode, encode_L
from pix2pix.damage import damage
from pix2pix.data import load_photos, seeded, split
from pix2pix.models import Generator
from pix2pix.photo import read_photo
from pix2pix.repair import (
    Repairer, evaluate_repairs, examples, fill_holes, load_repairer, repair_loss, repair_step,
    repairer_file
)
from pix2pix.weights import generator_file, load_generator, load_saved
from tests.helpers import (
    CPU, assert_same_run, assert_same_weights, error_line, fill, fit_as_rank_1, held_out,
    interrupt_at_step, new_config, new_repair_parts, noise, noise_batch, read_log, run, run_infer,
    run_train, save_noise, stub, threads, watch
)


def repairer(alpha, fill, seed=0):
    """A Repairer whose outputs, before the sigmoids, are these numbers everywhere."""
    torch.manual_seed(seed)
    R = Repairer(Generator(pretrained=False)).eval()
    R.head.weight.data.zero_()
    R.head.bias.data = torch.tensor([alpha, fill])
    return R


@pytest.mark.parametrize("shape", [(2, 1, 128, 128), (1, 1, 96, 160)])
def test_a_repairer_puts_out_a_change_that_keeps_L_in_range(shape):
    torch.manual_seed(0)
    R = Repairer(Generator(pretrained=False)).train()
    R.head.weight.data.mul_(1000)
    L = torch.rand(shape)
    change = R(L)
    assert change.shape == shape and change.dtype == torch.float32
    assert change.abs().max() > 0.5
    assert 0 <= (L + change).min() and (L + change).max() <= 1
    change.mean().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in R.head.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert R.holes(L).dtype == torch.float32
        assert R.head(torch.rand(1, 16, 32, 32)).dtype == torch.bfloat16


@torch.no_grad()
def test_a_hole_is_filled_as_far_as_it_is_one():
    L = torch.rand(2, 1, 64, 64)
    assert torch.equal(repairer(-200.0, 3.0)(L), torch.zeros_like(L))
    filled = torch.sigmoid(torch.tensor(1.5))
    assert torch.allclose(L + repairer(200.0, 1.5)(L), filled)
    assert torch.allclose(L + repairer(0.0, 200.0)(L), (L + 1) / 2)


def test_learning_to_repair_leaves_all_that_colors_as_it_is():
    """Weights and BatchNorm's statistics, of R and of its EMA."""
    parts = new_repair_parts()
    before = copy.deepcopy(parts.R.state_dict())
    for _ in range(2):
        fit_as_rank_1(parts, noise_batch(4, 32), "repair")
    for net in (parts.R, parts.ema):
        for name, weight in net.state_dict().items():
            if weight.is_floating_point():              # BatchNorm counts batches only in R
                changed = not torch.equal(weight, before[name])
                assert changed == (not name.startswith("G.")), name


def test_a_repairer_that_trains_leaves_the_statistics_of_the_colorizer():
    R = Repairer(Generator(pretrained=False))
    before = copy.deepcopy(R.state_dict())
    for training in (False, True):
        R.train(training)
        assert R.decoder[0].bn1.training == training
        assert not any(module.training for module in R.G.modules())
        with torch.no_grad():
            R(torch.rand(2, 1, 32, 32))
    after = R.state_dict()
    moved = {name for name in before if not torch.equal(after[name], before[name])}
    assert moved == {name for name, _ in R.named_buffers() if name.startswith("decoder.")}


def test_examples_are_damaged():
    photos = noise_batch(8, 32)
    L = encode_L(photos)
    seen, target = examples(photos, seeded(5))
    aged, damaged = damage(L, seeded(5))
    assert torch.equal(seen, damaged) and not torch.equal(seen, L)
    assert torch.equal(target, aged - damaged)


def test_the_error_of_repairs_is_in_cie_units():
    photos = torch.full((1, 3, 32, 32), 100, dtype=torch.uint8)
    aged, damaged = damage(encode_L(photos), seeded(("held out", 0)))
    scores = evaluate_repairs(lambda L: aged - damaged - 0.05, held_out(photos), CPU)
    assert scores["L_error"] == pytest.approx(5, abs=1e-4)


def test_evaluate_tells_how_much_damage_is_left():
    photos = noise_batch(16, 32)
    validation = held_out(photos)
    aged, damaged = damage(encode_L(photos), seeded(("held out", 0)))
    perfect = evaluate_repairs(lambda seen: aged - seen, validation, CPU)
    assert perfect["L_error"] == 0 and perfect["psnr"] > 100
    found = evaluate_repairs(torch.zeros_like, validation, CPU)
    assert found["L_error"] == pytest.approx(100 * (damaged - aged).abs().mean().item(), rel=1e-5)
    assert found["L_error"] > 1
    again = evaluate_repairs(torch.zeros_like, validation, CPU)
    assert again == found, "always the same damage"


def test_L1_counts_holes_twelve_times():
    R = repairer(0.0, 0.0)
    L, target = examples(noise_batch(8, 32), seeded(5))
    holes = target != 0
    assert 0.005 < holes.float().mean() < 0.5
    weight = torch.where(holes, 12.0, 1.0)
    errors = (R(L) - target).abs().detach()
    expected = pytest.approx(((errors * weight).sum() / weight.sum()).item(), rel=1e-5)
    opt = torch.optim.SGD(R.parameters(), 0)
    loss = repair_step(R, opt, L, target, 100, contextlib.nullcontext())["l1"]
    assert loss.item() == expected and not loss.requires_grad
    assert repair_loss(R(L), target).item() == expected
    assert errors.mean().item() != expected


def restore(scenes, colorizer):
    """Train two epochs of 5 steps, in two threads as test_resume.py does."""
    options = ["--pretrain-epochs", 2, "--restore", colorizer, "--out", "out"]
    with threads(2):
        return run_train(scenes, *options, "--save-seconds", 0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, scenes, colorizer):
    folder = tmp_path_factory.mktemp("restore")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert restore(scenes, colorizer) == 0
    return folder / "out"


def test_the_log_has_the_error_of_L_and_the_generator_repairs(whole):
    rows = read_log(whole)
    assert [row["phase"] for row in rows] == ["gray", "repair", "repair"]
    for row in rows:
        assert "L_error" in row
    load_repairer(whole / "generator.pt")


def test_the_log_tells_of_the_repairs_that_are_shipped(work, scenes, whole):
    images, _, _, _ = load_photos(str(scenes), 32)
    validation = held_out(images)._replace(val_indices=split(24, 4, 0)[1])
    figures = evaluate_repairs(load_repairer(whole / "generator.pt"), validation, CPU)
    last = read_log(whole)[-1]
    assert figures == pytest.approx({name: last[name] for name in figures}, rel=2e-3)


def test_a_run_keeps_all_that_colors(whole, colorizer):
    before = load_saved(colorizer, "generator")
    after = load_saved(whole / "generator.pt", "generator")
    assert after["config"] == before["config"]
    assert after["weights"].keys() == before["weights"].keys()
    for name, weight in before["weights"].items():
        assert torch.equal(after["weights"][name].half(), weight.half()), name


def test_a_generator_that_learned_to_repair_still_colors(whole, colorizer):
    L = torch.rand(2, 1, 64, 64)
    G = load_generator(whole / "generator.pt")
    R = load_repairer(whole / "generator.pt")
    with torch.no_grad():
        assert torch.equal(G(L), R.G(L))
        assert torch.allclose(G(L), load_generator(colorizer)(L), atol=1e-3)


def test_repairs_have_no_gan_phase_and_at_least_one_epoch(work, scenes, capsys):
    assert run_train(scenes, "--restore", "a.pt", "--gan-epochs", 0) == 2
    message = error_line(capsys.readouterr().err)
    assert message.startswith("--gan-epochs has no meaning for --restore")
    assert run_train(scenes, "--restore", "a.pt", "--old-film") == 2
    message = error_line(capsys.readouterr().err)
    assert message.startswith("--old-film has no meaning for --restore")
    assert run_train(scenes, "--restore", "a.pt", "--pretrain-epochs", 0) == 2
    message = error_line(capsys.readouterr().err)
    assert message.startswith("--restore needs --pretrain-epochs of 1 or more")


@pytest.fixture
def no_steps(monkeypatch):
    """Epochs train nothing."""
    stub(monkeypatch, repair, "repair_step", result={"l1": torch.zeros(())})
    stub(monkeypatch, repair, "update_ema")


def test_a_run_with_restore_starts_from_all_of_the_file(work, scenes, no_steps):
    """From its repairs, too, if it has learned some before."""
    G = fill(Generator(pretrained=False))
    torch.save(generator_file(G, new_config(size=32)), "colors.pt")
    torch.save(repairer_file(fill(Repairer(load_generator("colors.pt")))), "repairs.pt")
    for name in ("colors", "repairs"):
        options = ["--pretrain-epochs", 1, "--out", name, "--restore", f"{name}.pt"]
        assert run_train(scenes, *options) == 0
        before = load_saved(f"{name}.pt", "generator")
        after = load_saved(f"{name}/generator.pt", "generator")
        assert_same_weights(after["weights"], before["weights"])
        assert_same_weights(after["repairs"], before.get("repairs", after["repairs"]))


def test_held_out_photos_are_judged_alike_whatever_the_batch_size(
    scenes, work, saved, no_steps, colorizer
):
    """Damage is drawn for each batch, and differs where batches do."""
    for size in ("2", "4"):
        options = ["--restore", colorizer, "--batch-size", size, "--out", size]
        assert run_train(scenes, "--pretrain-epochs", 1, *options) == 0
    assert read_log("2")[0] == read_log("4")[0]


def test_repairs_may_be_learned_from_larger_pictures_than_colors(
    work, scenes, colorizer, no_steps
):
    """Also when its run is resumed, and when another one starts from it."""
    options = ["--pretrain-epochs", 1, "--restore"]
    assert run_train(scenes, "--out", "out", "--size", "64", *options, colorizer) == 0
    assert run_train(scenes, "--out", "out", "--size", "64", "--resume") == 0
    assert load_generator("out/generator.pt").config["size"] == 32
    assert run_train(scenes, "--out", "2", *options, "out/generator.pt") == 0
    assert load_generator("2/generator.pt").config["size"] == 32


def test_only_one_generator_to_start_from_is_taken(work, scenes, capsys):
    assert run_train(scenes, "--restore", "a.pt", "--init-from", "b.pt") == 2
    message = error_line(capsys.readouterr().err)
    assert message.startswith("--restore and --init-from both name the generator to start from")


def test_an_interrupted_and_resumed_run_equals_the_uninterrupted_one(
    work, scenes, whole, colorizer, monkeypatch
):
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, 8)             # in the second epoch
        assert restore(scenes, colorizer) == 130
    with threads(2):
        assert run(train, "--data", scenes, "--resume", "--out", "out", "--device", "cpu") == 0
    assert_same_run("out", whole)


def test_samples_show_the_damaged_photo_first_and_the_truth_last(work, scenes, whole):
    images, _, _, _ = load_photos(str(scenes), 32)
    _, val = split(24, 4, 0)
    L, _ = encode(images[val])
    aged, damaged = damage(L, seeded("samples"))
    grid = pil_to_tensor(Image.open(whole / "samples/001_repair.png").convert("RGB"))
    for index in range(4):
        row, column = divmod(index, 2)
        rows = grid[:, 2 + 34 * row : 34 + 34 * row]
        left = 2 + 102 * column
        shown, _ = encode(rows[None, :, :, left : left + 32])
        assert (shown - damaged[index]).abs().max() < 0.01
        shown, _ = encode(rows[None, :, :, left + 68 : left + 100])
        assert (shown - aged[index]).abs().max() < 0.01


def test_infers_program_repairs_if_it_is_asked_to(work, whole):
    save_noise("in.png", 70, 50, channels=1)
    L = encode(pil_to_tensor(read_photo("in.png"))[None])[0]
    saved = load_saved(whole / "generator.pt", "generator")
    saved["repairs"]["head.bias"][:] = torch.tensor([200.0, 0])      # all of it is a hole
    torch.save(saved, "holes.pt")
    found = {}
    for options in ([], ["--repair"]):
        assert run_infer("holes.pt", "in.png", "out.png", "--overwrite", *options) == 0
        found[len(options)] = encode(pil_to_tensor(read_photo("out.png"))[None])[0]
    assert found[0].shape == L.shape and (found[0] - L).abs().max() < 1 / 255
    assert found[1].std() < 0.2 * L.std()


def test_a_generator_that_only_colors_is_refused_for_repairs(work, generator, capsys):
    save_noise("in.png")
    assert run_infer(generator, "in.png", "out.png", "--repair") == 1
    message = error_line(capsys.readouterr().err)
    assert message == f"{generator} cannot repair: train.py --restore teaches it to"
    assert not (work / "out.png").exists()


def repaired(R, photo):
    copy_of_photo = photo.copy()
    fill_holes(R, copy_of_photo)
    return copy_of_photo


@pytest.mark.parametrize("size", [(90, 130), (1500, 700), (64, 64), (3, 200)])
def test_only_holes_change_whatever_the_photos_size(size):
    photo = Image.fromarray(noise(*size))
    for alpha in (-200.0, -7.0):                    # below half a level of 255
        assert repaired(repairer(alpha, 0.0), photo) == photo
    filled = np.asarray(repaired(repairer(200.0, 1.5), photo))
    expected = decode_gray(torch.sigmoid(torch.full((1, 1, 1, 1), 1.5))).flatten()
    assert (filled == expected.numpy()).all()


@pytest.mark.parametrize("size", [(128, 96), (2048, 1536), (70, 300)])
def test_a_hole_is_filled_where_it_is(monkeypatch, size):
    """Alpha and the filling are laid on the photo at its own scale, neither moved nor mirrored."""
    R = repairer(0.0, 0.0)

    def holes(L):
        _, _, height, width = L.shape
        found = torch.zeros(1, 2, height, width)
        found[:, 0, : height // 2, width // 4 :] = 1
        found[:, 1] = torch.linspace(0, 1, width)
        return found

    monkeypatch.setattr(R, "holes", holes)
    photo = Image.fromarray(noise(*size))
    before = np.asarray(photo, dtype=int)
    after = np.asarray(repaired(R, photo), dtype=int)
    height, width, _ = after.shape
    rows = slice(0, int(0.4 * height))
    columns = slice(int(0.35 * width), width)
    assert (after[int(0.6 * height):] == before[int(0.6 * height):]).all()
    assert (after[:, : int(0.15 * width)] == before[:, : int(0.15 * width)]).all()
    ramp = after[rows, columns]
    assert np.ptp(ramp, axis=(0, 2)).max() <= 1
    assert (np.diff(ramp[0, :, 0]) >= 0).all() and ramp[0, 0, 0] < 100 and ramp[0, -1, 0] > 240


def test_a_photo_is_repaired_in_its_own_proportions(monkeypatch):
    R = repairer(0.0, 0.0)
    seen = watch(monkeypatch, R, "holes")
    for size, shape in (
        ((300, 200), (192, 288)), ((4000, 2000), (320, 640)), ((3, 2000), (640, 32))
    ):
        fill_holes(R, Image.fromarray(noise(*size)))
        assert seen.pop()["L"].shape == (1, 1, *shape)


def test_a_repair_leaves_a_plain_border_as_it_is():
    R = repairer(200.0, 1.5)
    photo = Image.fromarray(noise(120, 90))
    frame = ImageOps.expand(photo, 20, "white")
    after = repaired(R, frame)
    box = (20, 20, 140, 110)
    assert after.crop(box) == repaired(R, photo)
    for picture in (frame, after):
        picture.paste("black", box)
    assert after == frame


def test_it_learns_to_repair(work, colorizer):
    """From noise, in a few hundred steps, on scenes that it never saw."""
    options = "--limit 90 --val 18 --lr 3e-3 --pretrain-epochs 20 --out out --restore".split()
    assert run_train("demo", *options, colorizer) == 0
    rows = read_log("out")
    images, _, _, _ = load_photos("demo", 32, 90)
    L, _ = encode(images[split(90, 18, 0)[1]])
    aged, damaged = damage(L, seeded(("held out", 0)))
    holes = aged != damaged
    R = load_repairer("out/generator.pt", CPU)
    with torch.no_grad():
        alpha, fill = R.holes(damaged).split(1, dim=1)
    change = alpha * (fill - damaged)
    assert change.abs()[holes].mean() > 5 * change.abs()[~holes].mean()
    left = (damaged + change - aged).abs()[holes].mean()
    assert left < 0.5 * (damaged - aged).abs()[holes].mean()
    assert rows[-1]["L_error"] < 0.7 * rows[1]["L_error"]


def test_the_bundled_generator_repairs_drawn_scenes():
    """Most of the error in holes goes, and hardly anything else changes."""
    R = load_repairer(infer.BUNDLED_GENERATOR)
    left = []
    found = []
    elsewhere = []
    for index in range(4):
        scene = pil_to_tensor(demo.scene(index).resize((512, 512)))[None]
        L, _ = encode(scene)
        aged, damaged = damage(L, seeded(("bundled", index)))
        photo = to_pil_image(decode_gray(damaged)[0])
        after, _ = encode(pil_to_tensor(repaired(R, photo))[None])
        holes = (aged - damaged).abs() > 0.1
        left.append((after - aged).abs()[holes])
        found.append((damaged - aged).abs()[holes])
        elsewhere.append((after - aged).abs()[aged == damaged])
    assert torch.cat(left).mean() < 0.4 * torch.cat(found).mean()
    assert 100 * torch.cat(elsewhere).mean() < 0.5                          # CIE units
