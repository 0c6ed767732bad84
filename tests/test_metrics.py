"""The figures have values that were worked out by hand; those of the truth and of gray, too."""
import pytest
import torch

from pix2pix.color import colorfulness, encode
from pix2pix.color import no_color
from pix2pix.metrics import evaluate, mean_losses, psnr
from tests.helpers import CPU, held_out


def test_errors_are_in_cie_units():
    photos = torch.full((1, 3, 32, 32), 100, dtype=torch.uint8)
    _, ab = encode(photos)
    ab[:, 0] += 10 / 128
    scores = evaluate(lambda L: ab, held_out(photos), CPU)
    assert scores["ab_error"] == pytest.approx(5, abs=1e-4)


def test_psnr_has_the_known_value_of_a_known_error():
    truth = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    worse = truth.clone()
    worse[0] += 10                                                      # 20 log10(255 / 10)
    assert psnr(worse, truth).tolist() == pytest.approx([28.1308, 120], abs=1e-3)


def test_colorfulness_has_the_known_values_of_known_pictures():
    """Half red, half green: |R - G| is 255 all over, |yb| 127.5: only the means count."""
    picture = torch.zeros(3, 3, 2, 2, dtype=torch.uint8)
    picture[0, 0, 0] = 255
    picture[0, 1, 1] = 255
    picture[1] = 77                     # gray
    picture[2, 2, 0] = 200              # half blue, half black: rg is 0, |yb| 200 or 0
    expected = [0.3 * (255**2 + 127.5**2) ** 0.5, 0, 100 + 0.3 * 100]
    assert colorfulness(picture).tolist() == pytest.approx(expected, rel=1e-4)


def test_evaluating_the_truth_is_perfect_and_gray_is_the_baseline():
    photos = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8)
    validation = held_out(photos, first=1)
    L, ab = encode(photos[1:])
    truth = iter(ab.split(16))
    perfect = evaluate(lambda seen: next(truth), validation, CPU)
    assert perfect["ab_error"] == 0 and perfect["psnr"] > 100
    assert perfect["colorfulness"] == pytest.approx(perfect["colorfulness_truth"])
    baseline = evaluate(no_color, validation, CPU)
    assert baseline["ab_error"] == pytest.approx((128 * ab.abs().mean()).item(), rel=1e-4)
    assert baseline["colorfulness"] < 0.5 < baseline["colorfulness_truth"]
    assert baseline["psnr"] < 30
    assert baseline.keys() == {"ab_error", "psnr", "colorfulness", "colorfulness_truth"}


def test_the_losses_of_an_epoch_are_means_over_its_steps_and_each_is_read_once(monkeypatch):
    """Each read waits for the GPU."""
    reads = []
    item = torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: reads.append(1) or item(tensor))
    steps = [{"l1": torch.tensor(1.0), "d_loss": torch.tensor(0.25)},
             {"l1": torch.tensor(2.0), "d_loss": torch.tensor(0.75)}]
    assert mean_losses(steps) == {"l1": 1.5, "d_loss": 0.5} and len(reads) == 2
