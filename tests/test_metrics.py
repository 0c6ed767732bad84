"""The three figures, against values worked out by hand."""

import pytest
import torch

from pix2pix.color import ab_error, colorfulness, psnr


def test_ab_error_is_in_cie_units():
    truth = torch.zeros(2, 2, 4, 4)
    guess = torch.zeros(2, 2, 4, 4)
    guess[1, 0] = 10 / 128
    assert ab_error(guess, truth).tolist() == pytest.approx([0, 5])


def test_psnr_of_a_known_error():
    truth = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    worse = truth.clone()
    worse[0] += 10  # 20 log10(255 / 10)
    assert psnr(worse, truth).tolist() == pytest.approx([28.1308, 120], abs=1e-3)


def test_colorfulness_of_known_pictures():
    """Half red, half green: rg = |R - G| = 255 all over, yb = 127.5 all over, so only the means count."""
    picture = torch.zeros(3, 3, 2, 2, dtype=torch.uint8)
    picture[0, 0, 0], picture[0, 1, 1] = 255, 255
    picture[1] = 77  # gray
    picture[2, 2, 0] = 200  # half blue, half black: rg = 0, yb = 200 or 0
    expected = [0.3 * (255**2 + 127.5**2) ** 0.5, 0, 100 + 0.3 * 100]
    assert colorfulness(picture).tolist() == pytest.approx(expected, rel=1e-4)
