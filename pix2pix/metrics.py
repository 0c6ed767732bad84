"""How close pictures are to the truth: PSNR, and all figures of validation photos."""
import torch

from pix2pix.color import AB_SCALE, L_SCALE, colorfulness, decode, decode_gray
from pix2pix.data import examples, gather


def psnr(rgb_u8, truth):
    """Peak signal-to-noise ratio in dB, (B,), of uint8 pictures (B, 3, H, W); at most 120."""
    square = ((rgb_u8.float() - truth.float()) / 255).square()
    return -10 * torch.log10(square.mean(dim=(1, 2, 3)).clamp(min=1e-12))


def render(L, output):
    """L (B, 1, H, W) and what a network makes of it -> uint8 sRGB (B, 3, H, W).

    Two channels are ab. A single one is a change of L, and the picture is gray.
    """
    if output.shape[1] == 2:
        return decode(L, output)
    return decode_gray(L + output)


@torch.no_grad()
def evaluate(network, images, indices, device, restore):
    """Score a network on the photos images[indices]; `torch.zeros_like` neither colors nor repairs.

    Returns means over the photos: "ab_error" (mean absolute error of ab in CIE units), "psnr" (RGB,
    dB), "colorfulness" and "colorfulness_truth". With `restore`, the network sees damaged L, the
    same damage every time, and "L_error" replaces "ab_error".
    """
    name, scale = ("L_error", L_SCALE) if restore else ("ab_error", AB_SCALE)
    scores = []
    for number, part in enumerate(indices.split(16)):
        photos = gather(images, device, part)
        L, target = examples(photos, restore, ("held out", number))
        output = network(L)
        rgb = render(L, output)
        truth = render(L, target)
        scores.append({
            name: scale * (output - target).abs().mean(dim=(1, 2, 3)),
            "psnr": psnr(rgb, truth),
            "colorfulness": colorfulness(rgb),
            "colorfulness_truth": colorfulness(truth)
        })
    return {name: torch.cat([score[name] for score in scores]).mean().item()
            for name in scores[0]}


def mean_losses(steps):
    """The mean of each loss over `steps`, a list of dicts of tensors by name."""
    return {name: torch.stack([losses[name] for losses in steps]).mean().item()
            for name in steps[0]}
