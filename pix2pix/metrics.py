"""How close pictures are to the truth: PSNR, and all figures of validation photos."""
import torch

from pix2pix.color import AB_SCALE, colorfulness, decode, encode, no_color
from pix2pix.data import gather


def psnr(rgb_u8, truth):
    """Peak signal-to-noise ratio in dB, (B,), of uint8 pictures (B, 3, H, W); at most 120."""
    square = ((rgb_u8.float() - truth.float()) / 255).square()
    return -10 * torch.log10(square.mean(dim=(1, 2, 3)).clamp(min=1e-12))


@torch.no_grad()
def evaluate(network, photos, device):
    """Score a network, or `no_color`, on the validation part of the Photos.

    Returns means over the photos: "ab_error" (mean absolute error of ab in CIE units), "psnr" (RGB,
    dB), "colorfulness" and "colorfulness_truth".
    """
    scores = []
    for part in photos.val_indices.split(16):
        truth = gather(photos.images, device, part)
        L, ab = encode(truth)
        output = network(L)
        rgb = decode(L, output)
        scores.append({
            "ab_error": AB_SCALE * (output - ab).abs().mean(dim=(1, 2, 3)),
            "psnr": psnr(rgb, truth),
            "colorfulness": colorfulness(rgb),
            "colorfulness_truth": colorfulness(truth)
        })
    return mean_scores(scores)


def mean_scores(scores):
    """The mean over all photos of each score, from a list of dicts of tensors (B,) by name."""
    return {name: torch.cat([score[name] for score in scores]).mean().item()
            for name in scores[0]}


def mean_losses(steps):
    """The mean of each loss over `steps`, a list of dicts of tensors by name."""
    return {name: torch.stack([losses[name] for losses in steps]).mean().item()
            for name in steps[0]}


@torch.no_grad()
def samples(G, photos):
    """uint8 photos (B, 3, S, S) -> uint8 (3 B, 3, S, S): for each, gray, colored by G, truth."""
    L, ab = encode(photos)
    pictures = [decode(L, output) for output in (no_color(L), G(L), ab)]
    return torch.stack(pictures, dim=1).flatten(0, 1).cpu()
