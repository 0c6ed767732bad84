"""Procedural scenes for --data demo: landscapes whose colours can be inferred from shape, place and shade."""
import random

from PIL import Image, ImageChops, ImageDraw, ImageOps

COUNT = 420                                        # scenes in the set

# A thing stands on (0, 0), y pointing down, and is painted part by part: each a colour with the corners of a polygon,
# or with only two corners of the box around an ellipse.
SUN = [("#fe8", [(-3, -3), (3, 3)])]
CLOUD = [("#fff", [(-8, -2), (0, 1)]), ("#fff", [(-5, -4), (3, 1)]), ("#fff", [(-1, -3), (6, 1)])]
PEAK = [("#89c", [(-40, 0), (0, -24), (36, 0)]), ("#fff", [(-10, -18), (0, -24), (9, -18), (4, -20), (-4, -16)])]
LAKE = [("#38b", [(-50, -5), (50, 5)]), ("#6ad", [(-30, -3), (30, -1)])]
TREE = [("#642", [(-1, 0), (0, -9), (1, 0)]), ("#262", [(-4, -10), (4, -3)]), ("#593", [(-3, -9), (2, -5)])]
FIR = [TREE[0]] + [("#143", [(-w, -y), (0, -y - 5), (w, -y)]) for w, y in ((4, 2), (3, 5), (2, 8))]
HOUSE = [("#eda", [(-5, 0), (-5, -5), (5, -5), (5, 0)]), ("#b32", [(-6, -4), (0, -9), (6, -4)])]

# From far to near: which things, how many at least and at most, on which rows, in pixels below the horizon.
STAGES = [([SUN], 1, 1, -200, -60), ([CLOUD], 1, 5, -230, -60), ([PEAK], 3, 6, 0, 0), ([LAKE], 0, 1, 28, 36)]
STAGES += [([HOUSE, TREE, TREE, FIR, FIR], 4, 9, 65, 220)]


def scene(index: int) -> Image.Image:
    """Scene number `index`, always the same: sky, sun, clouds, mountains, lake, houses, trees; 256x256 "RGB"."""
    rng = random.Random(index)
    horizon = rng.randint(210, 300)
    picture = _gradient("#47c", "#fff")
    picture.paste(_gradient("#ac6", "#252"), (0, horizon))
    draw = ImageDraw.Draw(picture)
    for things, least, most, top, bottom in STAGES:
        for y in sorted(rng.uniform(top, bottom) for _ in range(rng.randint(least, most))):
            x, size = rng.uniform(0, picture.width), rng.uniform(0.8, 1.2) * (3.5 + abs(y) / 25)  # larger when nearer
            for color, corners in rng.choice(things):
                shape = draw.ellipse if len(corners) == 2 else draw.polygon
                shape([(x + size * cx, horizon + y + size * cy) for cx, cy in corners], fill=color)
    light = rng.choice([("#fff", "#fff"), ("#fff", "#fff"), ("#c69", "#fc8")])  # by day or, one time in three, evening
    return ImageChops.multiply(picture, _gradient(*light)).reduce(2)            # shrinking smooths the edges


def _gradient(top, bottom):
    return ImageOps.colorize(Image.linear_gradient("L").resize((512, 512)), top, bottom)
