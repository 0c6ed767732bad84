"""curves.png: the figures of log.jsonl over the epochs."""
from PIL import Image, ImageDraw, ImageFont

PANELS = (                  # figures that share an axis
    ("l1",),
    ("d_loss", "g_gan"),
    ("d_real_accuracy", "d_fake_accuracy"),
    ("ab_error", "ab_error_film"),
    ("L_error",),
    ("psnr",),
    ("colorfulness", "colorfulness_truth")
)
COLORS = ("royalblue", "orangered")
SIZE = 400                  # of a panel, in pixels
MARGIN = 50


def draw(rows):
    """The rows of log.jsonl as curves: an "RGB" picture with a panel for each of PANELS it has.

    A gray line is the baseline, a black one the end of the L1 phase.
    """
    panels = [names for names in PANELS if names[0] in rows[-1]]
    picture = Image.new("RGB", (3 * SIZE, SIZE * (1 + (len(panels) - 1) // 3)), "white")
    for number, names in enumerate(panels):
        panel = _draw_panel(rows, [name for name in names if name in rows[-1]])
        picture.paste(panel, (SIZE * (number % 3), SIZE * (number // 3)))
    return picture


def _draw_panel(rows, names):
    panel = Image.new("RGB", (SIZE, SIZE), "white")
    pen = ImageDraw.Draw(panel)
    pen.font = ImageFont.load_default(13)
    values = [row[name] for row in rows for name in names if name in row]
    low = min(values)
    high = max(*values, low + 1e-3)
    last = max(rows[-1]["epoch"], 1)

    def place(epoch, value):                        # (x, y) in the panel
        x = epoch / last
        y = (high - value) / (high - low)
        return MARGIN + x * (SIZE - 1.5 * MARGIN), MARGIN + y * (SIZE - 2 * MARGIN)

    pen.rectangle((place(0, high), place(last, low)), outline="silver")
    for value in (low, (low + high) / 2, high):
        pen.text(place(0, value), f"{value:.3g} ", "black", anchor="rm")
    pen.text(place(0, low), "0", "black", anchor="ma")
    pen.text(place(last, low), f"epoch {last}", "black", anchor="ra")
    if names[0] in rows[0]:
        baseline = rows[0][names[0]]
        pen.line((place(0, baseline), place(last, baseline)), "gray", width=2)
    pretrained = sum(row["phase"] == "pretrain" for row in rows)
    if 0 < pretrained < last:
        pen.line((place(pretrained, low), place(pretrained, high)), "black")
    for number, name in enumerate(names):
        points = [place(row["epoch"], row[name]) for row in rows if name in row]
        pen.line(points[1:] if name in rows[0] else points, COLORS[number], width=2)
        legend = (MARGIN + number * SIZE / 2, MARGIN - 25)
        pen.text(legend, f"{name} {rows[-1][name]:.4g}", COLORS[number])
    return panel
