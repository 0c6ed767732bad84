"""Artificial damage of L for --restore: what decades do to a print, drawn on the batch's device."""
import torch
import torch.nn.functional as F


def damage(L, generator):
    """L (B, 1, H, W) in [0, 1] -> L as an old print would show it, and the mask of its holes.

    The mask is bool (B, 1, H, W): True where spots, scratches and cracks hide more than half of the
    photo; fading and grain only veil it. `generator`, a torch.Generator on the device of L, decides
    everything; on the CPU the damage is reproducible bit for bit.
    """
    rng = Random(L, generator)
    # Fading towards a flat gray, stronger in some places: whites yellow, blacks rise.
    gray = rng.uniform(0.3, 0.9)
    aged = L.lerp(gray, rng.strength(0.5, 0.1, 0.5) * (1 + 0.4 * rng.field(3)).clamp(0, 1.5))
    # How much each kind of damage covers a pixel, (B, 1, H, W): 0 and less outside, 1 and more
    # inside, between at its edge. The strength of strokes is half their width, in pixels.
    dust = rng.strength(0.4, 2, 6) * (rng.field(40, 60) - rng.uniform(1.8, 3))
    scratches = rng.strength(0.4, 0.4, 1) - rng.distance_to_strokes(4, 0.006)
    cracks = rng.strength(0.5, 0.4, 1.2) - rng.distance_to_strokes(9, 0.045)
    covers = (dust, scratches, cracks)
    for cover in covers:
        paper = 1 - rng.uniform() ** 4             # mostly white, sometimes dark
        aged = aged.lerp(paper, cover.clamp(0, 1))
    grain = rng.strength(0.5, 0.005, 0.035) * torch.randn(L.shape, **rng.options)
    return (aged + grain).clamp(0, 1), torch.stack(covers).amax(dim=0) > 0.5


class Random:
    """Random numbers and fields for each picture of a batch, on its device."""

    def __init__(self, L, generator):
        self.count = len(L)
        self.size = L.shape[2:]
        self.options = {"generator": generator, "device": L.device}
        self.y, self.x = (torch.linspace(-1, 1, side, device=L.device) for side in self.size)
        self.y = self.y[:, None]                    # (H, 1), and x is (W,)
        # A fifth of the pictures stay undamaged, so that G learns to leave good photos alone.
        self.is_damaged = self.uniform() > 0.2                                  # (B, 1, 1, 1)

    def uniform(self, low=0, high=1, number=1):
        """(B, number, 1, 1) in [low, high)."""
        return low + (high - low) * torch.rand(self.count, number, 1, 1, **self.options)

    def strength(self, chance, low, high):
        """The strength of one kind of damage, (B, 1, 1, 1): 0 leaves a picture unchanged."""
        return self.uniform(low, high) * self.is_damaged * (self.uniform() < chance)

    def field(self, *octaves):
        """A smooth random field around 0, (B, 1, H, W). An octave is a number of bumps per side."""
        total = 0
        for bumps in octaves:
            noise = torch.randn(self.count, 1, bumps, bumps, **self.options)
            noise *= (octaves[0] / bumps) ** 0.5
            total += F.interpolate(noise, self.size, mode="bilinear")
        return total

    def distance_to_strokes(self, number, waves):
        """Distance in pixels to the nearest of some wavy strokes, (B, 1, H, W)."""
        angle = self.uniform(0, torch.pi, number)
        offset = self.uniform(-1, 1, number)
        straight = self.x * angle.cos() + self.y * angle.sin() + offset         # (B, number, H, W)
        to_line = straight + waves * self.uniform() * self.field(8, 64)     # negative on one side
        # A line is endless. A stroke is the part of a line on the negative side of another line:
        # where the distance to both is small, or negative for the other.
        to_stroke = to_line.abs().maximum(to_line.roll(1, dims=1))              # (B, number, H, W)
        return to_stroke.amin(dim=1, keepdim=True) * (self.size[0] / 2)
