"""Artificial ageing of L for --restore: what decades in a drawer do to a print.

A batch at a time and on its device; and what a batch becomes for the networks, with it or without.
"""
import torch
import torch.nn.functional as F

from pix2pix.color import encode
from pix2pix.device import seeded


def examples(rgb_u8, restore, seed):
    """uint8 sRGB (B, 3, H, W) -> the L that G sees, the target to make of it, and what is lost.

    The target is ab (B, 2, H, W), and nothing is lost (None). With `restore` L is damaged, the
    target is the undamaged (L, ab), (B, 3, H, W), and lost is a mask (B, 1, H, W), as of `damage`.
    """
    L, ab = encode(rgb_u8)
    if not restore:
        return L, ab, None
    damaged, lost = damage(L, seed)
    return damaged, torch.cat((L, ab), dim=1), lost


def damage(L, seed):
    """L (B, 1, H, W) in [0, 1] -> L as an old print would show it, and the mask of what is lost.

    The mask is bool (B, 1, H, W): True where spots, scratches and cracks cover more than half of
    what was there; fading and grain only veil it. `seed`, a number or several, decides everything:
    the same one gives the same damage, bit for bit on the CPU.
    """
    dice = Dice(L, seed)
    # Fading, to a flat gray: whites yellow, blacks rise, here more and there less.
    gray = dice.uniform(0.3, 0.9)
    aged = L.lerp(gray, dice.strength(0.5, 0.1, 0.5) * (1 + 0.4 * dice.field(3)).clamp(0, 1.5))
    # How far each kind of wear covers a pixel, (B, 1, H, W): 0 and less outside, 1 and more inside,
    # between on its edge. Strengths of strokes are half their width, in pixels.
    dust = dice.strength(0.4, 2, 6) * (dice.field(40, 60) - dice.uniform(1.8, 3))
    scratches = dice.strength(0.4, 0.4, 1) - dice.distance_to_strokes(4, 0.006)
    cracks = dice.strength(0.5, 0.4, 1.2) - dice.distance_to_strokes(9, 0.045)
    covers = (dust, scratches, cracks)
    for cover in covers:
        paper = 1 - dice.uniform() ** 4             # mostly white, at times dark
        aged = aged.lerp(paper, cover.clamp(0, 1))
    grain = dice.strength(0.5, 0.005, 0.035) * torch.randn(L.shape, **dice.options)
    return (aged + grain).clamp(0, 1), torch.stack(covers).amax(dim=0) > 0.5


class Dice:
    """Random numbers for each picture of a batch, and the pixels' coordinates, on its device."""

    def __init__(self, L, seed):
        self.count = len(L)
        self.size = L.shape[2:]
        self.options = {"generator": seeded(seed, L.device), "device": L.device}
        self.y, self.x = (torch.linspace(-1, 1, side, device=L.device) for side in self.size)
        self.y = self.y[:, None]                    # (H, 1), and x is (W,)
        # The others stay whole, so that good photos stay good.
        self.worn = self.uniform() > 0.2                                        # (B, 1, 1, 1)

    def uniform(self, low=0, high=1, number=1):
        """(B, number, 1, 1) in [low, high)."""
        return low + (high - low) * torch.rand(self.count, number, 1, 1, **self.options)

    def strength(self, chance, low, high):
        """How strong one kind of damage is, (B, 1, 1, 1): 0 leaves a picture exactly as it was."""
        return self.uniform(low, high) * self.worn * (self.uniform() < chance)

    def field(self, *octaves):
        """Smooth and random around 0, (B, 1, H, W); an octave is a number of bumps along a side."""
        total = 0
        for bumps in octaves:
            noise = torch.randn(self.count, 1, bumps, bumps, **self.options)
            noise *= (octaves[0] / bumps) ** 0.5
            total += F.interpolate(noise, self.size, mode="bilinear")
        return total

    def distance_to_strokes(self, number, waves):
        """Pixels from each pixel to the nearest of some wavy strokes, (B, 1, H, W)."""
        angle = self.uniform(0, torch.pi, number)
        offset = self.uniform(-1, 1, number)
        straight = self.x * angle.cos() + self.y * angle.sin() + offset         # (B, number, H, W)
        to_line = straight + waves * self.uniform() * self.field(8, 64)     # below 0 on one side
        # A line goes on for ever; a stroke is its part on one side of another line: where the
        # distance to its own is small, and to the other small, too, or below 0.
        to_stroke = to_line.abs().maximum(to_line.roll(1, dims=1))              # (B, number, H, W)
        return to_stroke.amin(dim=1, keepdim=True) * (self.size[0] / 2)
