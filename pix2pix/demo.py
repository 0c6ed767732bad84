"""Procedural scenes for --data demo, whose colors follow from shape, place and shade."""
import random

from PIL import Image, ImageDraw, ImageOps

COUNT = 320                 # scenes in the set

# A thing stands on (0, 0), with y pointing down. Each part is a color and the corners x, y of a
# polygon; with only two corners, of the box around an ellipse.
SUN = [("#fd4", -3, -3, 3, 3)]
PEAK = [("#79c", -40, 0, 0, -24, 36, 0), ("#fff", -10, -18, 0, -24, 9, -18)]
TREE = [("#642", -1, 0, 0, -9, 1, 0), ("#4a3", -4, -11, 4, -3)]
HOUSE = [("#ed9", -5, 0, -5, -5, 5, -5, 5, 0), ("#b32", -6, -4, 0, -9, 6, -4)]

# From far to near: things to choose from, least and most of them, and the range of rows relative
# to the horizon.
STAGES = [
    ([SUN], 1, 1, -190, -90),
    ([PEAK], 2, 4, 0, 0),
    ([HOUSE, TREE], 3, 6, 80, 230)
]


def scene(index):
    """Scene number `index`, always the same, 256x256 "RGB": sky, sun, mountains, houses, trees."""
    rng = random.Random(index)
    horizon = rng.randint(210, 290)
    picture = _gradient("#37c", "#def")
    picture.paste(_gradient("#bc5", "#262"), (0, horizon))
    draw = ImageDraw.Draw(picture)
    for things, least, most, top, bottom in STAGES:
        for y in sorted(rng.uniform(top, bottom) for _ in range(rng.randint(least, most))):
            x = rng.uniform(0, picture.width)
            size = rng.uniform(0.8, 1.2) * (4 + abs(y) / 20)            # nearer things are larger
            for color, *corners in rng.choice(things):
                xs = [x + size * dx for dx in corners[::2]]
                ys = [horizon + y + size * dy for dy in corners[1::2]]
                shape = draw.ellipse if len(xs) == 2 else draw.polygon
                shape(list(zip(xs, ys)), fill=color)
    return picture.reduce(2)                        # smooths the edges


def _gradient(top, bottom):
    """512x512 "RGB", from one color to the other."""
    return ImageOps.colorize(Image.linear_gradient("L").resize((512, 512)), top, bottom)
