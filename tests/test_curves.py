"""curves.png, from made-up logs."""
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from pix2pix import curves
from pix2pix.run import Run
from tests.helpers import read_log

BLUE = (65, 105, 225)
ORANGE = (255, 69, 0)
GRAY = (128, 128, 128)
TRAINING = {"Training: L1 loss"}
GAN = {"Training: GAN losses", "Training: accuracies of D"}
VALIDATION = {
    "Validation: error of ab (CIE units)", "Validation: PSNR (dB)", "Validation: colorfulness"
}


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


def repair_log(epochs):
    rows = [{"phase": "gray", "epoch": 0, "L_error": 4.2, "psnr": 19.0}]
    for epoch in range(1, epochs + 1):
        rows.append({"phase": "repair", "epoch": epoch, "l1": 0.1, "L_error": 2.0, "psnr": 25.0})
    return rows


@pytest.fixture
def texts(monkeypatch):
    """What is written into pictures."""
    written = []
    write = ImageDraw.ImageDraw.text

    def note(pen, place, text, *args, **options):
        written.append(text)
        write(pen, place, text, *args, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", note)
    return written


@pytest.mark.parametrize(
    "rows, titles",
    [
        (log(0, 0), VALIDATION),
        (log(1, 0), TRAINING | VALIDATION),
        (log(20, 0), TRAINING | VALIDATION),
        (log(20, 180), TRAINING | GAN | VALIDATION),
        (log(0, 1), TRAINING | GAN | VALIDATION),
        (repair_log(3), TRAINING | {"Validation: error of L (CIE units)", "Validation: PSNR (dB)"})
    ],
    ids=["gray", "one epoch", "L1 alone", "200 epochs", "GAN alone", "repairs"]
)
def test_there_is_a_panel_for_all_that_was_logged_and_no_empty_one(texts, rows, titles):
    picture = curves.draw(rows)
    assert (picture.mode, picture.size) == ("RGB", (1200, 800))
    assert titles == {text for text in texts if text in curves.PANELS}


def test_the_legend_tells_the_latest_figures_and_the_baseline(texts):
    curves.draw(log(2, 2, ab_error_film=10.25))
    legend = {
        "l1: 0.25", "ab_error: 9.5", "ab_error_film: 10.25", "psnr: 22.75", "d_fake_accuracy: 0.8",
        "baseline: 11.3", "baseline: 21.5", "colorfulness_truth: 38.4"
    }
    assert legend <= set(texts)


def test_a_line_parts_the_phases_if_there_are_two(texts):
    curves.draw(log(2, 1))
    assert texts.count("L1  ") == texts.count("  GAN") == 6
    texts.clear()
    for rows in (log(3, 0), log(0, 3), repair_log(3)):
        curves.draw(rows)
    assert "L1  " not in texts and "  GAN" not in texts


def panel(rows, names):
    """The plot of a single panel, 1115 x 240 pixels."""
    points = [{name: row[name] for name in ("phase", "epoch", *names) if name in row}
              for row in rows]
    return np.asarray(curves.draw(points))[110:350, 60:1175]


def height_at(plot, color, column):
    """How far above the bottom the pixels of a color are on average, from 0 to 1."""
    rows, _ = np.nonzero((plot[:, column - 3:column + 4] == color).all(axis=2))
    assert len(rows), "the curve is there"
    return 1 - rows.mean() / len(plot)


def test_figures_are_drawn_where_the_numbers_beside_them_say():
    rows = log(10, 0)
    for row in rows:
        row["ab_error"] = 8 + 0.2 * row["epoch"]
    rows[0]["ab_error"] = 11
    plot = panel(rows, ["ab_error"])                        # from 8 to 11, epochs 0 to 10
    for epoch in (2, 5, 8):
        column = round(epoch / 10 * plot.shape[1])
        assert abs(height_at(plot, BLUE, column) - 0.2 * epoch / 3) < 0.01
        assert abs(height_at(plot, GRAY, column) - 1) < 0.01


def test_two_curves_have_two_colors():
    plot = panel(log(10, 0, ab_error_film=10.25), ["ab_error", "ab_error_film"])
    assert height_at(plot, BLUE, 500) < height_at(plot, ORANGE, 500)


@pytest.mark.parametrize("low, high", [
    (0, 5), (0, 120), (0, 200), (9.8, 11.3), (0.0612, 0.0611), (21.05, 21.06), (-3, 1e7), (0, 0),
    (5, 5), (10.7, math.nextafter(10.7, 11))
])
def test_axis_numbers_are_few_distinct_and_around_all_figures(low, high):
    numbers = curves._ticks(min(low, high), max(low, high))
    assert 2 <= len(numbers) <= 8
    assert numbers[0] <= min(low, high) and numbers[-1] >= max(low, high)
    assert len({f"{number:.6g}" for number in numbers}) == len(numbers)


def test_epochs_are_whole_numbers_and_the_axis_ends_where_120_do():
    assert curves._ticks(0, 5) == [0, 1, 2, 3, 4, 5]
    assert curves._ticks(0, 120) == [0, 20, 40, 60, 80, 100, 120]


def test_a_run_saves_its_curves(tmp_path):
    config = SimpleNamespace(out=tmp_path)
    rows = repair_log(2)
    run = Run(config, "fingerprint", "L_error", rows[0], {})
    run.rows = rows
    run.save(torch.zeros(3, 3, 8, 8), {})
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG"
        assert np.array_equal(picture, curves.draw(read_log(tmp_path)))
