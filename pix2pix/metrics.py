"""How good pictures are: ab error, PSNR, colorfulness, and all of these for held-out photos."""
import torch

from pix2pix.color import AB_SCALE, L_SCALE, decode
from pix2pix.damage import examples


def ab_error(ab, truth):
    """Mean absolute error over a and b in CIE units, (B,); both (B, 2, H, W) in [-1, 1]."""
    return AB_SCALE * (ab - truth).abs().mean(dim=(1, 2, 3))


def psnr(rgb_u8, truth):
    """Peak signal-to-noise ratio in dB, (B,), of uint8 pictures (B, 3, H, W); at most 120."""
    square = ((rgb_u8.float() - truth.float()) / 255).square()
    return -10 * torch.log10(square.mean(dim=(1, 2, 3)).clamp(min=1e-12))


def colorfulness(rgb_u8):
    """Hasler and Suesstrunk 2003 on 0..255, (B,), of uint8 (B, 3, H, W). Gray is 0.

    With the absolute values of the two opponents, as in published tables.
    """
    r, g, b = rgb_u8.float().unbind(dim=1)                  # (B, H, W) each
    red_green = (r - g).abs()
    yellow_blue = ((r + g) / 2 - b).abs()
    opponents = torch.stack((red_green, yellow_blue), dim=1).flatten(2)     # (B, 2, H * W)
    spread = opponents.var(dim=2, correction=0).sum(dim=1).sqrt()
    return spread + 0.3 * opponents.mean(dim=2).norm(dim=1)


def gray(L):
    """The baseline that any colorizer has to beat: L (B, 1, H, W) -> L and no ab (B, 2, H, W)."""
    return L, torch.zeros_like(L).repeat(1, 2, 1, 1)


@torch.no_grad()
def evaluate(predict, batches, device, repairs):
    """Figures of `predict`, L -> (L, ab) as of G.predict or `gray`, on batches of uint8 photos.

    Means over the photos: "ab_error" (CIE units), "psnr" (RGB, dB), "colorfulness" and the truth's.
    With `repairs` it sees damage, the same for the same batches, and "L_error", the mean absolute
    error of L (CIE units), tells how much of it is left.
    """
    scores = []
    for number, batch in enumerate(batches):
        photos = batch.to(device)
        seen, target, _ = examples(photos, repairs, ("held out", number))
        L, ab = predict(seen)
        rgb = decode(L, ab)
        score = {
            "ab_error": ab_error(ab, target[:, -2:]),
            "psnr": psnr(rgb, photos),
            "colorfulness": colorfulness(rgb),
            "colorfulness_truth": colorfulness(photos)
        }
        if repairs:
            score["L_error"] = L_SCALE * (L - target[:, :1]).abs().mean(dim=(1, 2, 3))
        scores.append(score)
    return {name: torch.cat([score[name] for score in scores]).mean().item()
            for name in scores[0]}
