"""--restore teaches a generator to repair, in the same steps and files; infer.py --repair does."""
import copy

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

import infer
import train
from pix2pix import demo
from pix2pix.color import decode_gray, encode
from pix2pix.damage import damage
from pix2pix.data import examples, load_photos, seeded, split
from pix2pix.files import load_saved
from pix2pix.models import Discriminator, Generator
from pix2pix.photo import read_photo
from tests.helpers import (
    CPU, assert_same_run, epochs, error_line, fit_as_rank_1, interrupt_at_step, new_run, noise,
    noise_batch, read_log, run, run_infer, run_train, save_noise, threads, watch
)


def repairer(alpha, fill, seed=0):
    """A generator of repairs whose outputs, before the sigmoids, are these numbers everywhere."""
    torch.manual_seed(seed)
    G = Generator(pretrained=False, repairs=True).eval()
    G.repair_head.weight.data.zero_()
    G.repair_head.bias.data = torch.tensor([alpha, fill])
    return G


@pytest.mark.parametrize("shape", [(2, 1, 128, 128), (1, 1, 96, 160)])
def test_a_generator_of_repairs_puts_out_a_change_that_keeps_L_in_range(shape):
    torch.manual_seed(0)
    net = Generator(pretrained=False, repairs=True)
    net.repair_head.weight.data.mul_(1000)
    L = torch.rand(shape)
    change = net(L)
    assert change.shape == shape and change.dtype == torch.float32
    assert change.abs().max() > 0.5
    assert 0 <= (L + change).min() and (L + change).max() <= 1
    change.mean().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in net.repair_head.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert net.holes(L).dtype == torch.float32
        assert net.repair_head(torch.rand(1, 16, 32, 32)).dtype == torch.bfloat16


@torch.no_grad()
def test_a_hole_is_filled_as_far_as_it_is_one():
    L = torch.rand(2, 1, 64, 64)
    assert torch.equal(repairer(-200.0, 3.0)(L), torch.zeros_like(L))
    filled = torch.sigmoid(torch.tensor(1.5))
    assert torch.allclose(L + repairer(200.0, 1.5)(L), filled)
    assert torch.allclose(L + repairer(0.0, 200.0)(L), (L + 1) / 2)


def test_learning_to_repair_leaves_all_that_colors_as_it_is():
    """Weights and BatchNorm's statistics, of G and of its EMA."""
    run = new_run(restore=True)
    before = copy.deepcopy(run.G.state_dict())
    for phase in ("pretrain", "gan"):
        with pytest.MonkeyPatch.context() as patch:
            fit_as_rank_1(patch, run, noise_batch(4, 32), phase)
    for net in (run.G, run.ema):
        for name, weight in net.state_dict().items():
            if weight.is_floating_point():              # BatchNorm counts batches only in G
                changed = not torch.equal(weight, before[name])
                assert changed == name.startswith("repair_"), name


@torch.no_grad()
def test_a_generator_of_repairs_still_colors():
    colorizer = Generator(pretrained=False).eval()
    G = Generator(pretrained=False, repairs=True).eval()
    G.load_state_dict(colorizer.state_dict(), strict=False)
    L = torch.rand(2, 1, 64, 64)
    assert torch.equal(G.color(L), colorizer(L))


@torch.no_grad()
def test_the_discriminator_judges_the_change():
    D = Discriminator(target_channels=1).eval()
    L = torch.rand(1, 1, 256, 256)
    change = torch.rand(1, 1, 256, 256) - L
    logits = D(L, change)
    assert logits.shape == (1, 1, 15, 15)
    for other in (D(1 - L, change), D(L, -change)):
        assert (other - logits).abs().max() > 1e-4


def test_examples_are_plain_or_damaged():
    photos = noise_batch(8, 32)
    L, ab = encode(photos)
    seen, target = examples(photos, False, 5)
    assert torch.equal(seen, L) and torch.equal(target, ab)
    seen, target = examples(photos, True, 5)
    aged, damaged = damage(L, seeded(5))
    assert torch.equal(seen, damaged) and not torch.equal(seen, L)
    assert torch.equal(target, aged - damaged)


def test_L1_counts_holes_twelve_times():
    G = repairer(0.0, 0.0)
    D = Discriminator(1)
    opt_G, opt_D = (torch.optim.SGD(net.parameters(), 0) for net in (G, D))
    L, target = examples(noise_batch(8, 32), True, 5)
    holes = target != 0
    assert 0.005 < holes.float().mean() < 0.5
    weight = torch.where(holes, 12.0, 1.0)
    errors = (G(L) - target).abs().detach()
    expected = pytest.approx(((errors * weight).sum() / weight.sum()).item(), rel=1e-5)
    assert train.pretrain_step(G, opt_G, L, target, 100)["l1"].item() == expected
    assert train.gan_step(G, D, opt_G, opt_D, L, target, 100)["l1"].item() == expected
    assert errors.mean().item() != expected


def restore(scenes, colorizer):
    """Train an epoch of 5 steps in each phase, in two threads as test_resume.py does."""
    options = ["--restore", colorizer, "--out", "out"]
    with threads(2):
        return run_train(scenes, *epochs(1, 1), *options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, scenes, colorizer):
    folder = tmp_path_factory.mktemp("restore")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert restore(scenes, colorizer) == 0
    return folder / "out"


def test_the_log_has_the_error_of_L_and_the_generator_says_that_it_repairs(whole, colorizer):
    for row in read_log(whole):
        assert "L_error" in row
    assert load_saved(whole / "generator.pt", "generator")["config"]["restore"] == str(colorizer)


def test_a_run_keeps_all_that_colors(whole, colorizer):
    before = load_saved(colorizer, "generator")["weights"]
    after = load_saved(whole / "generator.pt", "generator")["weights"]
    for name, weight in before.items():
        assert torch.equal(after[name].half(), weight.half()), name


def test_only_one_generator_to_start_from_is_taken(work, scenes, capsys):
    assert run_train(scenes, "--restore", "a.pt", "--init-from", "b.pt") == 2
    message = error_line(capsys.readouterr().err)
    assert message.startswith("--restore and --init-from both name the generator to start from")


def test_an_interrupted_and_resumed_run_equals_the_uninterrupted_one(
    work, scenes, whole, colorizer, monkeypatch
):
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, 8)
        assert restore(scenes, colorizer) == 130
    with threads(2):
        assert run(train, "--data", scenes, "--resume", "--out", "out", "--device", "cpu") == 0
    assert_same_run("out", whole)


def test_samples_show_the_damaged_photo_first_and_the_truth_last(work, scenes, whole):
    images, _, _, _ = load_photos(str(scenes), 32)
    _, val = split(24, 4, 0)
    L, _ = encode(images[val])
    aged, damaged = damage(L, seeded("samples"))
    grid = pil_to_tensor(Image.open(whole / "samples/001_pretrain.png").convert("RGB"))
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
    saved["weights"]["repair_head.bias"][:] = torch.tensor([200.0, 0])      # all of it is a hole
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


def repaired(G, photo):
    copy_of_photo = photo.copy()
    infer.repair(G, copy_of_photo)
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
    G = repairer(0.0, 0.0)

    def holes(L):
        _, _, height, width = L.shape
        found = torch.zeros(1, 2, height, width)
        found[:, 0, : height // 2, width // 4 :] = 1
        found[:, 1] = torch.linspace(0, 1, width)
        return found

    monkeypatch.setattr(G, "holes", holes)
    photo = Image.fromarray(noise(*size))
    before = np.asarray(photo, dtype=int)
    after = np.asarray(repaired(G, photo), dtype=int)
    height, width, _ = after.shape
    rows = slice(0, int(0.4 * height))
    columns = slice(int(0.35 * width), width)
    assert (after[int(0.6 * height):] == before[int(0.6 * height):]).all()
    assert (after[:, : int(0.15 * width)] == before[:, : int(0.15 * width)]).all()
    ramp = after[rows, columns]
    assert np.ptp(ramp, axis=(0, 2)).max() <= 1
    assert (np.diff(ramp[0, :, 0]) >= 0).all() and ramp[0, 0, 0] < 100 and ramp[0, -1, 0] > 240


def test_a_photo_is_repaired_in_its_own_proportions(monkeypatch):
    G = repairer(0.0, 0.0)
    seen = watch(monkeypatch, G, "holes")
    for size, shape in (
        ((300, 200), (192, 288)), ((4000, 2000), (320, 640)), ((3, 2000), (640, 32))
    ):
        infer.repair(G, Image.fromarray(noise(*size)))
        assert seen.pop()["L"].shape == (1, 1, *shape)


def test_a_repair_leaves_a_plain_border_as_it_is():
    G = repairer(200.0, 1.5)
    photo = Image.fromarray(noise(120, 90))
    frame = ImageOps.expand(photo, 20, "white")
    after = repaired(G, frame)
    box = (20, 20, 140, 110)
    assert after.crop(box) == repaired(G, photo)
    for picture in (frame, after):
        picture.paste("black", box)
    assert after == frame


def test_it_learns_to_repair(work, colorizer):
    """From noise, in a few hundred steps, on scenes that it never saw."""
    options = "--limit 90 --val 18 --lr 3e-3 --out out --restore".split()
    assert run_train("demo", *epochs(20, 0), *options, colorizer) == 0
    rows = read_log("out")
    images, _, _, _ = load_photos("demo", 32, 90)
    L, _ = encode(images[split(90, 18, 0)[1]])
    aged, damaged = damage(L, seeded(("held out", 0)))
    holes = aged != damaged
    G = infer.load_generator("out/generator.pt", CPU)
    with torch.no_grad():
        alpha, fill = G.holes(damaged).split(1, dim=1)
    change = alpha * (fill - damaged)
    assert change.abs()[holes].mean() > 5 * change.abs()[~holes].mean()
    left = (damaged + change - aged).abs()[holes].mean()
    assert left < 0.5 * (damaged - aged).abs()[holes].mean()
    assert rows[-1]["L_error"] < 0.7 * rows[1]["L_error"]


def test_the_bundled_generator_repairs_drawn_scenes():
    """Most of the error in holes goes, and hardly anything else changes."""
    G = infer.load_generator(infer.BUNDLED_GENERATOR)
    left = []
    found = []
    elsewhere = []
    for index in range(4):
        scene = pil_to_tensor(demo.scene(index).resize((512, 512)))[None]
        L, _ = encode(scene)
        aged, damaged = damage(L, seeded(("bundled", index)))
        photo = to_pil_image(decode_gray(damaged)[0])
        after, _ = encode(pil_to_tensor(repaired(G, photo))[None])
        holes = (aged - damaged).abs() > 0.1
        left.append((after - aged).abs()[holes])
        found.append((damaged - aged).abs()[holes])
        elsewhere.append((after - aged).abs()[aged == damaged])
    assert torch.cat(left).mean() < 0.4 * torch.cat(found).mean()
    assert 100 * torch.cat(elsewhere).mean() < 0.5                          # CIE units
