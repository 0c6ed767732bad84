"""Artificial damage of L: cracks, flakes and worn edges, drawn on the batch's device."""
import torch
import torch.nn.functional as F

from pix2pix.film import age


def damage(L, rng):
    """L (B, 1, H, W) in [0, 1] -> L of an old print, and of the same print with holes.

    Both may be faded, harsh or grainy, which a repair leaves alone. The holes are white cracks,
    flakes and worn edges, as large as in a print scanned at about 600 pixels. `rng`, a
    torch.Generator on the device of L, decides everything; on the CPU the damage is reproducible
    bit for bit.
    """
    options = {"generator": rng, "device": L.device}
    count, _, height, width = L.shape

    def uniform(low=0, high=1):                     # (B, 1, 1, 1) in [low, high)
        return low + (high - low) * torch.rand(count, 1, 1, 1, **options)

    def field(*cells):                              # smooth, random, around 0: (B, 1, H, W)
        """Each octave is noise in cells of so many pixels. Finer octaves are weaker."""
        total = 0
        for cell in cells:
            noise = torch.randn(count, 1, height // cell + 2, width // cell + 2, **options)
            noise *= (cell / cells[0]) ** uniform(0.6, 1.8)
            total += F.interpolate(noise, L.shape[2:], mode="bicubic")
        return total

    aged = age(L, rng)

    # How many pixels deep in each kind of damage a pixel lies: (B, 1, H, W). Cracks follow the
    # zeros of a rough field.
    cracks = 8 * uniform(0.2, 1) ** 2 - 30 * field(100, 30, 10, 4).abs()
    flakes = 8 * (field(16, 7, 3) - uniform(0.4, 1.6))
    y = torch.arange(height, device=L.device)[:, None]
    x = torch.arange(width, device=L.device)
    from_edge = torch.minimum(y.minimum(height - 1 - y), x.minimum(width - 1 - x))
    edges = uniform(-6, 14) + uniform(1, 8) * field(24, 8, 4) - from_edge

    damaged = aged
    for depth in (cracks, flakes, edges):
        places = 8 * (field(80) - uniform(-1.2, 1.3))           # limit it to some regions
        opacity = uniform(0.5, 2).clamp(max=1) * (uniform() < 0.4)      # 0 spares a picture
        paper = uniform(0.82, 1)
        damaged = damaged.lerp(paper, opacity * depth.minimum(places).clamp(0, 1))
    return aged, damaged
