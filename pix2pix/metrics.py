"""How close pictures are to the truth: ab error and PSNR, and all figures of validation photos."""
import torch

from pix2pix.color import AB_SCALE, L_SCALE, colorfulness, decode
from pix2pix.data import examples, gather


def ab_error(ab, truth):
    """Mean absolute error over a and b in CIE units, (B,); both (B, 2, H, W) in [-1, 1]."""
    return AB_SCALE * (ab - truth).abs().mean(dim=(1, 2, 3))


def psnr(rgb_u8, truth):
    """Peak signal-to-noise ratio in dB, (B,), of uint8 pictures (B, 3, H, W); at most 120."""
    square = ((rgb_u8.float() - truth.float()) / 255).square()
    return -10 * torch.log10(square.mean(dim=(1, 2, 3)).clamp(min=1e-12))


def gray(L):
    """The baseline for any colorizer: L (B, 1, H, W) -> L and an ab (B, 2, H, W) of zeros."""
    return L, torch.zeros_like(L).repeat(1, 2, 1, 1)


@torch.no_grad()
def evaluate(predict, images, indices, device, restore):
    """Score `predict`, L -> (L, ab) like `G.predict` or `gray`, on the photos images[indices].

    Returns means over the photos: "ab_error" (CIE units), "psnr" (RGB, dB), "colorfulness" and
    "colorfulness_truth". With `restore`, `predict` sees damaged L, the same damage every time, and
    "L_error" is the mean absolute error of its L (CIE units).
    """
    scores = []
    for number, part in enumerate(indices.split(16)):
        photos = gather(images, device, part)
        seen, target, _ = examples(photos, restore, ("held out", number))
        L, ab = predict(seen)
        rgb = decode(L, ab)
        score = {
            "ab_error": ab_error(ab, target[:, -2:]),
            "psnr": psnr(rgb, photos),
            "colorfulness": colorfulness(rgb),
            "colorfulness_truth": colorfulness(photos)
        }
        if restore:
            score["L_error"] = L_SCALE * (L - target[:, :1]).abs().mean(dim=(1, 2, 3))
        scores.append(score)
    return {name: torch.cat([score[name] for score in scores]).mean().item()
            for name in scores[0]}


def mean_losses(steps):
    """The mean of each loss over `steps`, a list of dicts of tensors by name."""
    return {name: torch.stack([losses[name] for losses in steps]).mean().item()
            for name in steps[0]}
