"""Procedural scenes for --data demo: landscapes whose colours can be inferred from shape, place and shade."""
import math

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

COUNT = 420                                        # scenes in the set
SIZE, S = 256, 512                                 # sides of a scene and of its drawing: shrinking it smooths the edges


def _box(left, top, right, bottom):
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _disc(x, y, radius):
    turns = np.arange(24) / 12 * np.pi
    return list(zip(x + radius * np.cos(turns), y + radius * np.sin(turns)))


# Each thing stands on (0, 0) and is a list of polygons, painted in turn; y points down, as in pictures.
CROWN = [(-0.5, -1.3, 0.5), (0.5, -1.25, 0.5), (0, -1.7, 0.55), (-0.35, -2, 0.4), (0.4, -1.95, 0.42), (0, -1.2, 0.45)]
TREE = [((92, 64, 42), _box(-0.15, -1.2, 0.15, 0))] + [((40, 92, 36), _disc(x, y, r)) for x, y, r in CROWN]
TREE += [((88, 142, 56), _disc(x - 0.12, y - 0.15, 0.6 * r)) for x, y, r in CROWN]
FIR = [((78, 56, 42), _box(-0.12, -0.5, 0.12, 0))]
FIR += [((24, 70, 52), [(-w, -y), (0, -y - 1.2), (w, -y)]) for w, y in ((0.9, 0.3), (0.7, 0.9), (0.5, 1.5), (0.4, 2.1))]
HOUSE = [((238, 222, 184), _box(-1.2, -1.2, 1.2, 0)), ((206, 186, 148), _box(0.75, -1.2, 1.2, 0))]
HOUSE += [((164, 56, 40), [(-1.4, -1.2), (0, -2.3), (1.4, -1.2)]), ((104, 62, 34), _box(-0.2, -0.7, 0.2, 0))]
HOUSE += [((70, 92, 120), _box(x, -0.9, x + 0.33, -0.5)) for x in (-0.85, 0.4)]


def scene(index: int) -> Image.Image:
    """Scene number `index`, always the same: sky, sun, clouds, hills, meadow, water, trees, houses; 256x256 "RGB"."""
    rng = np.random.default_rng(index)
    horizon = int(rng.uniform(0.42, 0.6) * S)
    picture = _gradient((58, 118, 205), (186, 218, 242), horizon)
    x, y = rng.uniform(0.1, 0.9) * S, rng.uniform(0.15, 0.7) * horizon
    _blot(picture, (255, 244, 150), [_disc(x, y, 30)], blur=6)
    for x, y, w in rng.uniform((0, 0.08 * horizon, 36), (S, 0.6 * horizon, 70), (rng.integers(1, 5), 3)):
        puffs = [_disc(x + 1.4 * w * i, y + 9 * j, w * (0.45 - 0.25 * abs(i))) for i, j in rng.uniform(-1, 1, (9, 2))]
        _blot(picture, (255, 255, 255), puffs, blur=5)

    draw = ImageDraw.Draw(picture)
    for lift, color in ((rng.uniform(40, 62), (112, 128, 168)), (rng.uniform(14, 24), (74, 112, 76))):
        ridge = [(x, horizon - lift * (1 + 0.6 * math.sin(x / rng.normal(70, 1) + lift))) for x in range(0, S + 8, 8)]
        draw.polygon([(0, S), *ridge, (S, S)], fill=color)
    picture.paste(_gradient((150, 178, 84), (66, 124, 44), S - horizon), (0, horizon))
    shore = horizon + 8
    if rng.random() < 0.55:
        x, w, h = rng.uniform(0.1, 0.9) * S, rng.uniform(0.3, 0.6) * S, rng.uniform(0.05, 0.12) * S
        lake = [(px, shore + h + h / w * py) for px, py in _disc(x, 0, w)]
        _blot(picture, _gradient((170, 208, 222), (36, 96, 150), shore + 2 * h), [lake], blur=1)
        shore += 2 * h
    kinds = [HOUSE] * rng.integers(0, 3) + [TREE] * rng.integers(1, 4) + [FIR] * rng.integers(1, 4)
    feet = np.sort(rng.uniform(shore + 10, S - 20, len(kinds)))               # what stands lower stands nearer
    for kind, foot in zip(rng.permutation(len(kinds)), feet):
        wide, high = (12 + 36 * (foot - horizon) / (S - horizon)) * rng.uniform(0.85, 1.2, 2)
        x = rng.uniform(0.06, 0.94) * S
        for color, outline in kinds[kind]:
            draw.polygon([(x + wide * px, foot + high * py) for px, py in outline], fill=color)
    if rng.random() < 0.3:                                                    # evening: purple above, golden below
        picture = ImageChops.multiply(picture, _gradient((220, 90, 120), (255, 180, 110), horizon))
    return picture.resize((SIZE, SIZE), Image.Resampling.BOX)


def _gradient(top, bottom, height):
    """SxS pixels, from colour `top` to `bottom` at `height` and below."""
    mix = np.linspace(0, S / height, S).clip(0, 1)[:, None, None]
    return Image.fromarray(((1 - mix) * top + mix * bottom).repeat(S, axis=1).astype(np.uint8))


def _blot(picture, paint, outlines, blur):
    """Paint polygons of a colour, or of another picture, with soft edges."""
    mask = Image.new("L", (S, S))
    for outline in outlines:
        ImageDraw.Draw(mask).polygon(outline, fill=255)
    picture.paste(paint, (0, 0, S, S), mask.filter(ImageFilter.GaussianBlur(blur)))
