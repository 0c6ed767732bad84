"""Artificial damage of L for --restore: what decades do to a print, drawn on the batch's device."""
import torch
import torch.nn.functional as F


def damage(L, generator):
    """L (B, 1, H, W) in [0, 1] -> L as an old print would show it, and the mask of its holes.

    The mask is bool (B, 1, H, W): True where dust and cracks hide more than half of the photo;
    fading and grain only veil it. `generator`, a torch.Generator on the device of L, decides
    everything; on the CPU the damage is reproducible bit for bit.
    """
    options = {"generator": generator, "device": L.device}

    def uniform(low=0, high=1):                     # (B, 1, 1, 1) in [low, high)
        return low + (high - low) * torch.rand(len(L), 1, 1, 1, **options)

    # A fifth of the pictures stay undamaged, so that G learns to leave good photos alone.
    is_damaged = uniform() > 0.2                    # (B, 1, 1, 1)

    def strength(chance, low, high):                # (B, 1, 1, 1); 0 leaves a picture unchanged
        return uniform(low, high) * is_damaged * (uniform() < chance)

    def field(*octaves):                            # smooth, random, around 0: (B, 1, H, W)
        """Each octave is a number of bumps per side."""
        total = 0
        for bumps in octaves:
            noise = torch.randn(len(L), 1, bumps, bumps, **options) * (octaves[0] / bumps)
            total += F.interpolate(noise, L.shape[2:], mode="bilinear")
        return total

    # Fading towards a flat gray, stronger in some places: whites darken, blacks rise.
    aged = L.lerp(uniform(0.3, 0.9), strength(0.5, 0.1, 0.5) * (1 + 0.4 * field(3)).clamp(0, 1.5))
    # How much each kind of damage covers a pixel, (B, 1, H, W): 0 and less outside, 1 and more
    # inside, between at its edge. Cracks follow the zeros of a rough field, in places.
    dust = strength(0.5, 2, 6) * (field(40, 60) - uniform(1.8, 3))
    distance = field(2, 8, 32).abs() * (L.shape[-1] / 12)               # from a zero, in pixels
    cracks = (strength(0.6, 0.5, 2) - distance).minimum(4 * field(4) - 1)
    covers = (dust, cracks)
    for cover in covers:
        paper = 1 - uniform() ** 4                  # mostly white, sometimes dark
        aged = aged.lerp(paper, cover.clamp(0, 1))
    grain = strength(0.5, 0.005, 0.035) * torch.randn(L.shape, **options)
    return (aged + grain).clamp(0, 1), torch.stack(covers).amax(dim=0) > 0.5
