"""--restore: one network that colors and repairs, in the same steps, files and programs."""

import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torchvision.transforms.functional import pil_to_tensor

import infer
import train
from pix2pix.color import encode
from pix2pix.damage import damage
from pix2pix.data import examples, load_photos, seeded, split
from pix2pix.files import load_saved
from pix2pix.models import Discriminator, Generator
from pix2pix.photo import read_photo
from tests.helpers import (
    CPU, assert_same_run, epochs, interrupt_at_step, noise, noise_batch, read_log, run, run_infer,
    run_train, save_noise, threads
)


def restorer(alpha, fill, seed=0):
    """A generator whose first two channels, before the sigmoids, are these numbers everywhere."""
    torch.manual_seed(seed)
    G = Generator(pretrained=False, repairs=True).eval()
    G.head.weight.data[:2] = 0
    G.head.bias.data[:2] = torch.tensor([alpha, fill])
    return G


@pytest.mark.parametrize("shape", [(2, 1, 128, 128), (1, 1, 96, 160)])
def test_the_generator_puts_out_L_and_ab(shape):
    torch.manual_seed(0)
    G = Generator(pretrained=False, repairs=True)
    G.head.weight.data.mul_(1000)
    out = G(torch.rand(shape))
    assert out.shape == (shape[0], 3, *shape[2:]) and out.dtype == torch.float32
    L, ab = out.split((1, 2), dim=1)
    assert 0 <= L.min() and L.max() <= 1
    assert -1 <= ab.min() < -0.5 and 0.5 < ab.max() <= 1
    out.mean().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in G.head.parameters())


def test_what_is_not_surely_lost_stays_as_it_is():
    L = torch.rand(2, 1, 64, 64)
    assert torch.equal(restorer(-200, 3)(L)[:, :1], L)
    assert torch.equal(restorer(-1.4, 3)(L)[:, :1], L)
    all_lost = torch.sigmoid(torch.tensor(1.5))
    assert torch.allclose(restorer(200, 1.5)(L)[:, :1], all_lost)
    assert torch.allclose(restorer(0, 200)(L)[:, :1], L + 0.375 * (1 - L))
    in_training = restorer(0, 200).train()(L)[:, :1]
    assert torch.allclose(in_training, (L + 1) / 2), "in training every alpha counts"


@torch.no_grad()
def test_a_prediction_is_the_generators_own_L_or_else_the_first_and_ab():
    L = torch.rand(2, 1, 64, 64)
    colors = Generator(pretrained=False).eval()
    repairs = restorer(0, 200)
    for G, expected in ((colors, torch.cat((L, colors(L)), dim=1)), (repairs, repairs(L))):
        assert torch.equal(torch.cat(G.predict(L), dim=1), expected)


@torch.no_grad()
def test_the_discriminator_judges_L_too():
    D = Discriminator(target_channels=3).eval()
    L = torch.rand(1, 1, 256, 256)
    own_L = torch.rand(1, 1, 256, 256)
    ab = torch.rand(1, 2, 256, 256)

    def judge(L, own_L, ab):
        return D(L, torch.cat((own_L, ab), dim=1))

    logits = judge(L, own_L, ab)
    assert logits.shape == (1, 1, 15, 15)
    for other in (judge(1 - L, own_L, ab), judge(L, 1 - own_L, ab), judge(L, own_L, -ab)):
        assert (other - logits).abs().max() > 1e-4


def test_examples_are_plain_or_damaged():
    photos = noise_batch(8, 32)
    L, ab = encode(photos)
    seen, target, hole_mask = examples(photos, False, 5)
    assert torch.equal(seen, L) and torch.equal(target, ab) and hole_mask is None
    seen, target, hole_mask = examples(photos, True, 5)
    damaged, expected = damage(L, seeded(5))
    assert torch.equal(seen, damaged) and not torch.equal(seen, L)
    assert torch.equal(target, torch.cat((L, ab), dim=1))
    assert torch.equal(hole_mask, expected) and hole_mask.any()


def test_L1_counts_what_is_lost_six_times():
    G = Generator(pretrained=False, repairs=True)
    D = Discriminator(3)
    opt_G, opt_D = (torch.optim.SGD(net.parameters(), 0) for net in (G, D))
    L, target, hole_mask = examples(noise_batch(8, 32), True, 5)
    weight = torch.where(hole_mask, 6.0, 1.0).expand(8, 3, 32, 32)
    errors = (G(L) - target).abs().detach()
    expected = pytest.approx(((errors * weight).sum() / weight.sum()).item(), rel=1e-5)
    assert train.pretrain_step(G, opt_G, L, target, 100, hole_mask)["l1"].item() == expected
    assert train.gan_step(G, D, opt_G, opt_D, L, target, 100, hole_mask)["l1"].item() == expected
    plain = train.pretrain_step(G, opt_G, L, target, 100)["l1"].item()
    assert plain == pytest.approx(errors.mean())
    assert errors.mean().item() != expected


def restore(scenes):
    """Train an epoch of 5 steps in each phase, in two threads as test_resume.py does."""
    with threads(2):
        return run_train(scenes, *epochs(1, 1), "--restore", "--out", "out")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, scenes):
    folder = tmp_path_factory.mktemp("restore")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert restore(scenes) == 0
    return folder / "out"


def test_the_log_has_the_error_of_L_and_the_generator_says_that_it_repairs(whole):
    for row in read_log(whole):
        assert "L_error" in row
    assert load_saved(whole / "generator.pt", "generator")["config"]["restore"] is True


def test_an_interrupted_and_resumed_run_equals_the_uninterrupted_one(
    work, scenes, whole, monkeypatch
):
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, 8)
        assert restore(scenes) == 130
    with threads(2):
        assert run(train, "--data", scenes, "--resume", "--out", "out", "--device", "cpu") == 0
    assert_same_run("out", whole)


def test_infers_program_takes_a_generator_that_repairs(work, whole):
    save_noise("in.png", 70, 50, channels=1)
    assert run_infer(whole / "generator.pt", "in.png", "out.png") == 0
    assert read_photo("out.png").size == (70, 50)


def test_samples_show_the_damaged_photo_first_and_the_truth_last(work, scenes, whole):
    images, _, _ = load_photos(str(scenes), 32)
    _, val = split(24, 4, 0)
    L, _ = encode(images[val])
    damaged, _ = damage(L, seeded("samples"))
    grid = pil_to_tensor(Image.open(whole / "samples/001_pretrain.png").convert("RGB"))
    for index in range(4):
        row, column = divmod(index, 2)
        rows = grid[:, 2 + 34 * row : 34 + 34 * row]
        left = 2 + 102 * column
        shown, _ = encode(rows[None, :, :, left : left + 32])
        assert (shown - damaged[index]).abs().max() < 0.01
        assert torch.equal(rows[:, :, left + 68 : left + 100], images[val[index]])


@pytest.mark.parametrize("size", [(90, 130), (700, 500), (64, 64)])
def test_at_full_resolution_only_the_correction_is_enlarged(size):
    photo = Image.fromarray(noise(*size, channels=1)).convert("RGB")
    L, _ = encode(pil_to_tensor(photo)[None])

    def restored(alpha, fill):
        """L of the photo that a generator gives back, without colors."""
        G = restorer(alpha, fill)
        G.head.weight.data[2:] = 0
        G.head.bias.data[2:] = 0
        return encode(pil_to_tensor(infer.colorize(G, photo, 64))[None])[0]

    assert (restored(-200, 0) - L).abs().max() * 255 < 1
    small, _ = encode(infer.shrink(photo, 64)[None])
    correction = F.interpolate(0.375 * (1 - small), L.shape[2:], mode="bilinear")
    expected = (L + correction).clamp(0, 1)
    lighter = restored(0, 200)
    assert (lighter - expected).abs().max() * 255 < 1.5
    assert (lighter - L).abs().max() * 255 > 20


def test_a_generator_that_repairs_leaves_a_plain_border_as_it_is():
    G = restorer(200, 1.5)
    photo = Image.fromarray(noise(120, 90))
    frame = ImageOps.expand(photo, 20, "white")
    colored = infer.colorize(G, frame, 64)
    box = (20, 20, 140, 110)
    assert colored.crop(box) == infer.colorize(G, photo, 64)
    for picture in (frame, colored):
        picture.paste("black", box)
    assert colored == frame


def test_it_learns_to_repair_and_to_color(work):
    """After a few steps it tells holes, on scenes that it never saw."""
    options = "--limit 90 --val 18 --lr 1e-3 --restore --out out".split()
    assert run_train("demo", *epochs(2, 0), *options) == 0
    first, *_, last = read_log("out")
    images, _, _ = load_photos("demo", 32, 90)
    L, _ = encode(images[split(90, 18, 0)[1]])
    damaged, hole_mask = damage(L, seeded("held out"))
    G = infer.load_generator("out/generator.pt", CPU)
    with torch.no_grad():
        mended, _ = G.predict(damaged)
    change = (mended - damaged).abs()
    assert change[hole_mask].mean() > 1.8 * change[~hole_mask].mean()             # before: 1.1
    assert (mended - L)[hole_mask].abs().mean() < 0.9 * (damaged - L)[hole_mask].abs().mean()
    assert last["ab_error"] < 0.5 * first["ab_error"]
