"""curves.png, from made-up logs."""
import numpy as np
import pytest

from pix2pix import curves

BLUE = (65, 105, 225)
ORANGE = (255, 69, 0)
GRAY = (128, 128, 128)


def log(pretrain, gan, **more):
    """The rows of a training; `more` are further figures of each epoch."""
    scores = {"ab_error": 11.3, "psnr": 21.5, "colorfulness": 0.0, "colorfulness_truth": 38.4}
    rows = [{"phase": "gray", "epoch": 0} | scores]
    for epoch in range(1, pretrain + gan + 1):
        learned = {"ab_error": 9 + 2 / epoch, "psnr": 23 - 1 / epoch, "colorfulness": epoch / 9}
        row = {"phase": "pretrain", "epoch": epoch, "seconds": 3, "l1": 1 / epoch}
        row |= scores | learned | more
        if epoch > pretrain:
            row |= {"phase": "gan", "d_loss": 0.6, "g_gan": 1.1}
            row |= {"d_real_accuracy": 0.7, "d_fake_accuracy": 0.8}
        rows.append(row)
    return rows


def panel(rows, number):
    """The pixels of a panel, (400, 400, 3)."""
    x = 400 * (number % 3)
    y = 400 * (number // 3)
    return np.asarray(curves.draw(rows))[y:y + 400, x:x + 400]


def columns(pixels, color):
    """Where along x a color is found below the legend."""
    return np.flatnonzero((pixels[45:] == color).all(axis=2).any(axis=0))


@pytest.mark.parametrize("pretrain, gan", [(0, 0), (1, 0), (2, 0), (0, 1), (20, 100), (100, 100)])
def test_a_log_of_any_length_is_drawn(pretrain, gan):
    picture = curves.draw(log(pretrain, gan))
    assert picture.size == (1200, 800 if gan or pretrain else 400)
    assert len(picture.getcolors(10**6)) > 3


def test_equal_figures_can_be_drawn():
    rows = log(3, 0)
    for row in rows:
        row |= {"ab_error": 7.0}
    curves.draw(rows)


def test_curves_span_all_epochs_and_the_baseline_is_gray():
    error = panel(log(20, 100), 3)
    assert columns(error, BLUE)[0] < 60 and columns(error, BLUE)[-1] > 370
    assert columns(error, GRAY)[0] <= 50 and columns(error, GRAY)[-1] >= 374


def test_the_baseline_is_no_point_of_a_curve():
    """No epoch was trained at 0: a line from there would look like the first one."""
    first_of_three = 50 + 325 / 3
    assert abs(columns(panel(log(3, 0), 1), BLUE)[0] - first_of_three) <= 2


def test_a_falling_error_falls_on_the_picture():
    error = panel(log(50, 0), 1)
    is_blue = (error[45:] == BLUE).all(axis=2)
    heights = [np.flatnonzero(is_blue[:, x]).mean() for x in (60, 200, 370)]
    assert heights == sorted(heights)


def test_gan_losses_begin_where_the_l1_phase_ends():
    losses = panel(log(60, 60), 1)
    begin = columns(losses, ORANGE)[0]
    line = (losses[60:340] == 0).all(axis=2).all(axis=0)
    assert abs(begin - np.flatnonzero(line)[0]) <= 4
    assert abs(begin - (50 + 325 / 2)) < 6


def test_no_line_ends_the_l1_phase_of_a_run_without_a_gan_phase():
    with_gan, alone = (panel(log(9, gan), 0) for gan in (1, 0))
    is_line = [(l1[60:340] == 0).all(axis=(0, 2)).any() for l1 in (with_gan, alone)]
    assert is_line == [True, False]


def test_the_error_on_film_joins_the_error():
    with_film = panel(log(9, 0, ab_error_film=9.9), 1)
    assert len(columns(with_film, ORANGE)) > 200
    assert len(columns(panel(log(9, 0), 1), ORANGE)) == 0


def test_repairs_have_curves_of_their_own():
    rows = [{"phase": "gray", "epoch": 0, "L_error": 4.2, "psnr": 19.0}]
    for epoch in (1, 2, 3):
        row = {"phase": "repair", "epoch": epoch, "l1": 0.1, "L_error": 4 - epoch, "psnr": 25.0}
        rows.append(row)
    assert curves.draw(rows).size == (1200, 400)
    assert len(columns(panel(rows, 1), BLUE)) > 100
