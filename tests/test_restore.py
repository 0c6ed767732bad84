"""--restore: one network that colours and repairs, in the same steps, files and programs."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

import infer
import train
from pix2pix.color import encode, psnr
from pix2pix.damage import damage
from pix2pix.data import load_photos, split
from pix2pix.models import Discriminator, Generator, complete
from pix2pix.photo import read_photo
from pix2pix.runtime import load_saved
from tests.conftest import TINY, noise, read_log
from tests.test_resume import assert_equal, checkpoint, figures, interrupt_at_step

CPU = torch.device("cpu")


def restorer(share, instead, seed=0):
    """A generator whose first two channels before the sigmoids are these numbers, everywhere."""
    torch.manual_seed(seed)
    G = Generator(pretrained=False, out_channels=3).eval()
    G.head.weight.data[:2], G.head.bias.data[:2] = 0, torch.tensor([share, instead])
    G.config = {"restore": True}
    return G


@pytest.mark.parametrize("shape", [(2, 1, 128, 128), (1, 1, 96, 160)])
def test_the_generator_puts_out_L_and_ab(shape):
    torch.manual_seed(0)
    G, L = Generator(pretrained=False, out_channels=3), torch.rand(shape)
    G.head.weight.data.mul_(1000)
    out = G(L)
    assert out.shape == (shape[0], 3, *shape[2:]) and out.dtype == torch.float32
    assert 0 <= out[:, 0].min() and out[:, 0].max() <= 1 and -1 <= out[:, 1:].min() < -0.5 < 0.5 < out[:, 1:].max() <= 1
    out.mean().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in G.head.parameters())


def test_what_is_not_lost_or_not_surely_stays_as_it_is():
    L = torch.rand(2, 1, 64, 64)
    assert torch.equal(restorer(-200, 3)(L)[:, :1], L) and torch.equal(restorer(-1.4, 3)(L)[:, :1], L)
    all_lost = torch.sigmoid(torch.tensor(1.5)).item()
    assert torch.allclose(restorer(200, 1.5)(L)[:, :1], torch.tensor(all_lost))
    assert torch.allclose(restorer(0, 200)(L)[:, :1], L + 0.375 * (1 - L))
    assert torch.allclose(restorer(0, 200).train()(L)[:, :1], (L + 1) / 2), "in training every share counts"


def test_complete_takes_the_generators_own_L_or_else_the_first():
    L, out = torch.rand(2, 1, 8, 8), torch.rand(2, 3, 8, 8)
    for prediction, expected in ((out, out), (out[:, 1:], torch.cat((L, out[:, 1:]), dim=1))):
        assert torch.equal(torch.cat(complete(L, prediction), dim=1), expected)


@torch.no_grad()
def test_the_discriminator_judges_L_too():
    D = Discriminator(target_channels=3).eval()
    L, target = torch.rand(1, 1, 256, 256), torch.rand(1, 3, 256, 256)
    logits = D(L, target)
    assert logits.shape == (1, 1, 15, 15)
    for other in (D(1 - L, target), D(L, torch.cat((1 - target[:, :1], target[:, 1:]), dim=1)), D(L, -target)):
        assert (other - logits).abs().max() > 1e-4


def test_examples_are_plain_or_damaged():
    photos = torch.from_numpy(np.stack([noise(32, 32, seed=seed) for seed in range(8)])).permute(0, 3, 1, 2)
    L, ab = encode(photos)
    seen, target, weight = train.examples(photos, False, 5)
    assert torch.equal(seen, L) and torch.equal(target, ab) and weight is None
    seen, target, weight = train.examples(photos, True, 5)
    damaged, lost = damage(L, 5)
    assert torch.equal(seen, damaged) and not torch.equal(seen, L) and lost.any()
    assert torch.equal(target, torch.cat((L, ab), dim=1))
    assert torch.equal(weight, torch.where(lost, 6, 1).expand(8, 3, 32, 32))


def test_L1_counts_what_is_lost_six_times():
    photos = torch.from_numpy(np.stack([noise(32, 32, seed=seed) for seed in range(8)])).permute(0, 3, 1, 2)
    G, D = Generator(pretrained=False, out_channels=3), Discriminator(3)
    L, target, weight = train.examples(F.interpolate(photos, scale_factor=2), True, 5)
    errors = ((G(L) - target).abs() * weight).detach()
    opt_G, opt_D = (torch.optim.SGD(net.parameters(), 0) for net in (G, D))
    expected = pytest.approx((errors.sum() / weight.sum()).item(), rel=1e-5)
    assert train.pretrain_step(G, opt_G, L, target, weight)["l1"].item() == expected
    assert train.gan_step(G, D, opt_G, opt_D, L, target, 100, weight)["l1"].item() == expected
    assert train.pretrain_step(G, opt_G, L, target)["l1"].item() != expected


def test_psnr_where_a_mask_is_true():
    truth, picture, where = torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    picture[0, 0, 0], where[0, 0, 0] = 10, True
    assert psnr(picture, truth, where)[0].item() == pytest.approx(28.1308, abs=1e-3)
    assert psnr(picture, truth, ~where)[0].item() == pytest.approx(120)
    assert psnr(picture, truth, where)[1].isnan(), "nothing there to be judged"


def test_figures_of_the_truth_and_of_what_is_only_damaged(scenes):
    images, _, _ = load_photos(str(scenes), 32)
    indices = torch.arange(24)
    L, ab = encode(images)
    damaged, lost = damage(L, ("held out", 0))
    perfect = train.evaluate(lambda seen: torch.cat((L, ab), dim=1), images, indices, 24, CPU, restore=True)
    assert all(perfect[name] > 100 for name in ("L_psnr", "L_psnr_lost", "L_psnr_kept", "L_psnr_undamaged"))
    gray = train.evaluate(train.gray, images, indices, 24, CPU, restore=True)
    worn = (damaged != L).flatten(1).any(dim=1)
    errors = (damaged - L).square()
    assert gray["L_psnr_undamaged"] == pytest.approx(120) and 0 < worn.sum() < 24
    expected = (-10 * errors[worn].mean(dim=(1, 2, 3)).log10()).mean().item()
    assert gray["L_psnr"] == pytest.approx(expected, abs=0.01)
    inside = [-10 * error[mask].mean().log10().item() for error, mask in zip(errors, lost) if mask.any()]
    assert gray["L_psnr_lost"] == pytest.approx(sum(inside) / len(inside), abs=0.01) and gray["L_psnr_lost"] < 20
    assert gray["L_psnr_lost"] < gray["L_psnr"] < gray["L_psnr_kept"]
    assert train.evaluate(train.gray, images, indices, 24, CPU, restore=True) == gray, "always the same damage"
    assert "L_psnr" not in train.evaluate(train.gray, images, indices, 24, CPU)


def run(scenes, *options, out="out"):
    epochs = ["--pretrain-epochs", "1", "--gan-epochs", "1", "--restore", "--out", out]
    return train.main(["--data", str(scenes), *TINY, *epochs, *options])


def test_the_whole_program_twice_the_same_interrupted_or_not(work, scenes, capsys, monkeypatch):
    assert run(scenes, out="whole") == 0
    rows = read_log("whole")
    assert all({"L_psnr", "L_psnr_lost", "L_psnr_kept", "L_psnr_undamaged"} <= row.keys() for row in rows)
    assert load_saved(work / "whole/generator.pt", "generator")["config"]["restore"] is True
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, 8)
        assert run(scenes) == 130
    capsys.readouterr()
    assert train.main(["--data", str(scenes), "--resume", "--out", "out"]) == 0
    assert_equal(checkpoint(), checkpoint("whole"))
    assert figures(read_log("out")) == figures(rows)
    assert (work / "out/samples/002_gan.png").read_bytes() == (work / "whole/samples/002_gan.png").read_bytes()
    assert run(scenes, "--data", "demo", "--resume") == 2 and "contradicts" in capsys.readouterr().err
    Image.fromarray(noise(70, 50, channels=1)).save("in.png")
    assert infer.main(["in.png", "out.png", "--checkpoint", "out/generator.pt"]) == 0
    assert read_photo("out.png").size == (70, 50)


def test_a_run_without_restore_does_not_become_one_with_it(work, scenes, capsys):
    plain = ["--data", str(scenes), *TINY, "--pretrain-epochs", "1", "--gan-epochs", "0", "--out", "out"]
    assert train.main(plain) == 0
    assert train.main([*plain, "--resume", "--restore"]) == 2
    assert "--restore True contradicts the run to resume: False" in capsys.readouterr().err


def test_samples_show_the_damaged_photo_first(work, scenes):
    assert run(scenes, "--gan-epochs", "0") == 0
    images, _, _ = load_photos(str(scenes), 32)
    _, val = split(24, 4, 0)
    L, _ = encode(images[val[:8]])
    damaged, _ = damage(L, "samples")
    grid = pil_to_tensor(Image.open("out/samples/001_pretrain.png").convert("RGB"))
    for index in range(4):
        row, column = divmod(index, 2)
        tile = grid[:, 4 + 36 * row : 36 + 36 * row, 4 + 108 * column : 36 + 108 * column]
        shown = encode(tile[None])[0]
        assert (shown - damaged[index]).abs().max() < 0.01
        truth = grid[:, 4 + 36 * row : 36 + 36 * row, 76 + 108 * column : 108 + 108 * column]
        assert torch.equal(truth, images[val[index]])


@pytest.mark.parametrize("size", [(90, 130), (700, 500), (64, 64)])
def test_at_full_resolution_only_the_correction_is_enlarged(size):
    photo = Image.fromarray(noise(*size, channels=1)).convert("RGB")
    L, _ = encode(pil_to_tensor(photo)[None])
    untouched = restorer(-200, 0)
    untouched.head.weight.data[2:] = untouched.head.bias.data[2:] = 0  # gray
    assert (encode(pil_to_tensor(infer.colorize(untouched, photo, 64))[None])[0] - L).abs().max() * 255 < 1
    lighter = restorer(0, 200)
    lighter.head.weight.data[2:] = lighter.head.bias.data[2:] = 0
    small, _ = encode(infer.shrink(photo, 64)[None])
    correction = F.interpolate(0.375 * (1 - small), L.shape[2:], mode="bilinear")
    expected = (L + correction).clamp(0, 1)
    found = encode(pil_to_tensor(infer.colorize(lighter, photo, 64))[None])[0]
    assert (found - expected).abs().max() * 255 < 1.5 and (found - L).abs().max() * 255 > 20


def test_it_learns_to_repair_and_to_colour(work):
    """A minute's worth of steps would do more; a few show that it tells what is lost, on scenes that it never saw."""
    options = "--data demo --limit 90 --val 18 --size 64 --batch-size 4 --lr 1e-3 --pretrain-epochs 3 --gan-epochs 0"
    assert train.main([*options.split(), "--restore", "--no-pretrained", "--out", "out", "--device", "cpu"]) == 0
    first, *_, last = read_log("out")
    assert last["L_psnr_lost"] > first["L_psnr_lost"] + 1.2 and last["L_psnr"] > first["L_psnr"] + 0.4
    assert last["L_psnr_undamaged"] > 30
    assert last["ab_error"] < 0.5 * first["ab_error"]
