"""curves.png: the figures of log.jsonl over the epochs."""
import math

from PIL import Image, ImageDraw, ImageFont

PANELS = {                  # title -> figures of a row
    "Training: L1 loss": ["l1"],
    "Training: GAN losses": ["d_loss", "g_gan"],
    "Training: accuracies of D": ["d_real_accuracy", "d_fake_accuracy"],
    "Validation: error of ab (CIE units)": ["ab_error", "ab_error_film"],
    "Validation: error of L (CIE units)": ["L_error"],
    "Validation: PSNR (dB)": ["psnr"],
    "Validation: colorfulness": ["colorfulness", "colorfulness_truth"]
}
COLORS = ["royalblue", "orangered"]
WIDTH = 2400                # halved at the end, which makes the lines smooth
HEIGHT = 1600


def draw(rows):
    """The rows of log.jsonl as curves: an "RGB" picture of 1200 x 800 pixels.

    Row 0 is the baseline. Panels without figures are left out.
    """
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(picture)
    pen.font = ImageFont.load_default(30)
    panels = {title: _curves(rows, names) for title, names in PANELS.items()}
    titles = [title for title in panels if panels[title]]
    width = WIDTH // math.ceil(len(titles) / 2)
    pretrained = sum(row["phase"] == "pretrain" for row in rows)
    left = 0
    top = 0
    for title in titles:
        pen.text((left + 120, top + 30), title, "black")
        box = (left + 120, top + 220, left + width - 50, top + 700)
        _draw_panel(pen, box, panels[title], rows[-1]["epoch"], pretrained)
        left += width
        if left + width > WIDTH:
            left = 0
            top = HEIGHT // 2
    return picture.reduce(2)


def _curves(rows, names):
    """The curves of a panel by name: lists of (epoch, value). That of the baseline is level."""
    curves = {}
    for name in names:
        points = [(row["epoch"], row[name]) for row in rows[1:] if name in row]
        if points:
            curves[name] = points
    if names[0] in rows[0]:
        level = rows[0][names[0]]
        curves["baseline"] = [(0, level), (rows[-1]["epoch"], level)]
    return curves


def _draw_panel(pen, box, curves, last, pretrained):
    """Draw curves into a box, with numbers around it and the legend above it.

    `last` is the last epoch, `pretrained` that of the L1 phase.
    """
    left, top, right, bottom = box
    values = [value for points in curves.values() for _, value in points]
    epochs = _ticks(0, max(last, 5))
    levels = _ticks(min(values), max(values))

    def x(epoch):
        return left + (right - left) * epoch / epochs[-1]

    def y(value):
        return bottom - (bottom - top) * (value - levels[0]) / (levels[-1] - levels[0])

    for level in levels:
        pen.line((left, y(level), right, y(level)), "gainsboro", width=2)
        pen.text((left - 16, y(level)), f"{level:.6g}", "black", anchor="rm")
    for epoch in epochs:
        pen.text((x(epoch), bottom + 12), f"{epoch:g}", "black", anchor="ma")
    pen.text((right, bottom + 50), "epoch", "black", anchor="ra")
    if 0 < pretrained < last:
        boundary = x(pretrained)
        pen.line((boundary, top, boundary, bottom), "black", width=2)
        pen.text((boundary, top), "L1  ", "black", anchor="rb")
        pen.text((boundary, top), "  GAN", "black", anchor="lb")
    for number, (name, points) in enumerate(curves.items()):
        color = "gray" if name == "baseline" else COLORS[number]
        places = [(x(epoch), y(value)) for epoch, value in points]
        pen.line(places, color, width=4, joint="curve")
        pen.circle(places[-1], 7, color)
        pen.text((left, top - 150 + 36 * number), f"{name}: {points[-1][1]:.4g}", color)


def _ticks(low, high):
    """Round numbers at equal distances, up to 8, around all from `low` to `high`."""
    span = max(high - low, abs(high) / 50, 1e-6)        # a flat curve needs some height, too
    power = 10 ** math.floor(math.log10(span / 6))
    step = min(power * factor for factor in (1, 2, 5, 10) if 6 * power * factor >= span)
    first = math.floor(low / step)
    last = math.ceil((low + span) / step)
    return [step * number for number in range(first, last + 1)]
