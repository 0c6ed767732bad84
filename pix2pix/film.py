"""What old film would have seen, for --old-film, drawn on the batch's device.

Silver halide sees blue alone. Dyes made it see green (orthochromatic) in the 1880s, and red
(panchromatic) from 1906 on, but cheaper orthochromatic film was common until the 1930s.
"""
import torch

from pix2pix.color import AB_SCALE, LUMINANCE, encode, encode_L
from pix2pix.data import gather, seeded

# Rough shares of linear R, G and B in what an emulsion sees. The ranges of wavelengths are those of
# Langford, Basic Photography (1997), chapter 9; the shares are ours.
EMULSIONS = (
    (0.00, 0.10, 0.90),             # blue-sensitive: pale skies, dark lips
    (0.03, 0.52, 0.45),             # orthochromatic: no red
    (0.25, 0.35, 0.40)              # panchromatic: still more blue than the eye
)


def film_L(rgb_u8, rng):
    """uint8 sRGB (B, 3, H, W) -> L (B, 1, H, W) in [0, 1], as on an old black-and-white print.

    Each picture lies at random between plain luminance and one of the emulsions. `rng` is a
    torch.Generator on the device of the pictures.
    """
    options = {"generator": rng, "device": rgb_u8.device}
    count = len(rgb_u8)
    number = torch.randint(len(EMULSIONS), (count, 1), **options)
    share = (1.4 * torch.rand(count, 1, **options) - 0.4).clamp(min=0)      # 0 for two in seven
    sensitivity = []
    for eye, *emulsions in zip(LUMINANCE, *EMULSIONS):                      # of R, G and B
        # A table of them would be copied to the GPU, which waits for the queue.
        film = sum(value * (number == index) for index, value in enumerate(emulsions))
        sensitivity.append(eye + share * (film - eye))                      # (B, 1)
    L = encode_L(rgb_u8, torch.cat(sensitivity, dim=1))                     # (B, 1, H, W)
    is_aged = torch.rand(count, 1, 1, 1, **options) < 0.6
    return torch.where(is_aged, age(L, rng), L)


def age(L, rng):
    """L (B, 1, H, W) of a print after decades: faded or harsh, and grainy."""
    options = {"generator": rng, "device": L.device}

    def uniform(low, high):                         # (B, 1, 1, 1) in [low, high)
        return low + (high - low) * torch.rand(len(L), 1, 1, 1, **options)

    # Toward a flat gray, or away from it: prints fade, and copies and scans gain contrast.
    fading = uniform(-0.8, 0.4)
    grain = uniform(-0.03, 0.03).clamp(min=0) * torch.randn(L.shape, **options)
    return (L.lerp(uniform(0.3, 0.9), fading) + grain).clamp(0, 1)


@torch.no_grad()
def film_error(network, photos, device):
    """The "ab_error" of `evaluate`, with L as old film saw it; the same film at every call."""
    rng = seeded("held out", device)
    errors = []
    for part in photos.val_indices.split(16):
        rgb = gather(photos.images, device, part)
        ab = encode(rgb)[1]
        errors.append(AB_SCALE * (network(film_L(rgb, rng)) - ab).abs().mean(dim=(1, 2, 3)))
    return torch.cat(errors).mean().item()
