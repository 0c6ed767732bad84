"""How far a coloured photo is from the truth. Each takes batches and returns one number a photo, (B,)."""
import torch
from torch import Tensor

from pix2pix.color import AB_SCALE


def ab_error(ab: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute error over a and b in CIE units; both (B, 2, H, W) as `color.encode` gives them."""
    return AB_SCALE * (ab - truth).abs().mean(dim=(1, 2, 3))


def psnr(rgb_u8: Tensor, truth_u8: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of uint8 RGB (B, 3, H, W) in dB; equal pictures get 120."""
    mean_square = (rgb_u8.float() - truth_u8.float()).div(255).square().mean(dim=(1, 2, 3))
    return -10 * torch.log10(mean_square.clamp(min=1e-12))


def colorfulness(rgb_u8: Tensor) -> Tensor:
    """Hasler and Suesstrunk 2003, on 0..255, with the absolute opponents of published tables. Gray is 0."""
    r, g, b = rgb_u8.float().unbind(dim=1)
    rg, yb = (r - g).abs().flatten(1), ((r + g) / 2 - b).abs().flatten(1)
    deviation = (rg.var(dim=1, correction=0) + yb.var(dim=1, correction=0)).sqrt()
    return deviation + 0.3 * (rg.mean(dim=1).square() + yb.mean(dim=1).square()).sqrt()
