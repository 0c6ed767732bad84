"""Procedural scenes for --data demo, whose colors follow from shape, place and shade."""
import random

from PIL import Image, ImageDraw, ImageOps

COUNT = 320                 # scenes in the set


def scene(index):
    """Scene number `index`, always the same, 256x256 "RGB": a meadow with houses and trees."""
    rng = random.Random(index)
    horizon = rng.randint(210, 290)
    picture = _gradient("#37c", "#def")
    picture.paste(_gradient("#bc5", "#262"), (0, horizon))
    draw = ImageDraw.Draw(picture)
    draw.circle((rng.uniform(0, 512), rng.uniform(40, 160)), 30, "#fd4")        # the sun
    for depth in sorted(rng.uniform(80, 230) for _ in range(rng.randint(4, 8))):
        x = rng.uniform(0, 512)
        y = horizon + depth
        size = 16 + depth / 5                       # nearer things are larger
        if rng.random() < 0.5:                      # a tree
            draw.rectangle((x - size / 5, y - 2 * size, x + size / 5, y), "#642")
            draw.circle((x, y - 2 * size), size, "#4a3")
        else:                                       # a house
            draw.rectangle((x - size, y - size, x + size, y), "#ed9")
            draw.regular_polygon((x, y - 1.5 * size, 1.3 * size), 3, fill="#b32")
    return picture.reduce(2)                        # smooths the edges


def _gradient(top, bottom):
    """512x512 "RGB", from one color to the other."""
    return ImageOps.colorize(Image.linear_gradient("L").resize((512, 512)), top, bottom)
