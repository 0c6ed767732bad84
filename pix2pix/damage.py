"""Artificial ageing of L for --restore: what decades in a drawer do to a print, a batch at a time and on its device."""
import torch
import torch.nn.functional as F

from pix2pix.runtime import seeded


def damage(L: torch.Tensor, seed) -> tuple[torch.Tensor, torch.Tensor]:
    """L (B, 1, H, W) in [0, 1] -> L as an old print would show it, same shape and range, and the mask of what is lost.

    The second is bool (B, 1, H, W): True under scratches, cracks, folds, spots and torn rims, which cover more than
    half of what was there; fading, stains, blur and grain only veil it. H and W are multiples of 4. `seed`, a number or
    several, decides everything: the same one gives the same damage, bit for bit on the CPU.
    """
    size = L.shape[2:]
    draw = {"generator": seeded(seed, L.device), "device": L.device}
    y, x = (torch.linspace(-1, 1, side, device=L.device) for side in size)

    def uniform(low=0, high=1, number=1):
        return low + (high - low) * torch.rand(len(L), number, 1, 1, **draw)

    worn = uniform() > 0.2                         # the others stay whole, so that good photos stay good

    def strength(chance, low, high):               # 0 leaves a picture exactly as it was
        return uniform(low, high) * worn * (uniform() < chance)

    def field(*octaves):                           # smooth and random around 0; an octave: bumps along a side
        noises = (torch.randn(len(L), 1, n, n, **draw) * (octaves[0] / n) ** 0.5 for n in octaves)
        return sum(F.interpolate(noise, size, mode="bilinear") for noise in noises)

    def strokes(number, waves):                    # pixels to the nearest of lines, each of which ends at another
        angle, offset = uniform(0, torch.pi, number), uniform(-1, 1, number)
        lines = x * angle.cos() + y[:, None] * angle.sin() + offset + waves * uniform() * field(8, 64)
        return lines.abs().maximum(lines.roll(1, dims=1)).amin(dim=1, keepdim=True) * (size[0] / 2)

    # A flat gray: whites yellow, blacks rise. Then stains, that one still sees through, and two kinds of blur.
    aged = L.lerp(uniform(0.3, 0.9), strength(0.5, 0.1, 0.5) * (1 + 0.4 * field(3)).clamp(0, 1.5))
    aged = aged.lerp(uniform(), strength(0.3, 0.1, 0.4) * (field(4, 12) - uniform()).clamp(0, 1))
    for factor in (2, 4):
        aged = aged.lerp(F.interpolate(F.avg_pool2d(aged, factor), size, mode="bilinear"), strength(0.25, 0.2, 0.7))

    # How far each kind covers a pixel, from 0 to 1 at its edge: dust and flakes; torn rims, outside the superellipse
    # x**12 + y**12 = 1; scratches and cracks as wide as their strength in pixels, which thin out, end and begin again.
    wear = (uniform(0.2, 0.8) + 0.7 * field(8, 48)).clamp(0, 1)
    covers = [strength(0.4, 2, 6) * (field(40, 60) - uniform(1.8, 3)),
              strength(0.5, 5, 20) * (x**12 + y[:, None] ** 12 - uniform(0.9, 1.6) - 0.35 * field(4, 48)),
              strength(0.4, 0.6, 1.2) * wear - strokes(4, 0.006),
              strength(0.5, 0.6, 1.6) * wear - strokes(9, 0.045)]
    for cover in covers:
        aged = aged.lerp(1 - uniform() ** 4, cover.clamp(0, 1))               # mostly the paper's white, at times dark
    aged = aged + strength(0.5, 0.005, 0.035) * torch.randn(L.shape, **draw)
    return aged.clamp(0, 1), torch.stack(covers).amax(dim=0) > 0.5
