"""How good pictures are: ab error, PSNR, colorfulness, and all of these for held-out photos."""
import torch

from pix2pix.color import AB_SCALE, decode, encode
from pix2pix.damage import examples


def ab_error(ab, truth):
    """Mean absolute error over a and b in CIE units, (B,); both (B, 2, H, W) in [-1, 1]."""
    return AB_SCALE * (ab - truth).abs().mean(dim=(1, 2, 3))


def psnr(picture, truth, peak, where=None):
    """Peak signal-to-noise ratio in dB, (B,), of pictures (B, C, H, W) on 0..peak; at most 120.

    Over all pixels, or those where a mask (B, 1, H, W) is True: NaN in a picture without any.
    """
    square = ((picture.float() - truth.float()) / peak).square()
    if where is not None:
        square = square.masked_fill(~where, torch.nan)
    return -10 * torch.log10(square.nanmean(dim=(1, 2, 3)).clamp(min=1e-12))


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
    A predict that repairs sees damage, always the same, and there is also the PSNR of L (dB) where
    it is lost, and in the rest of the damaged photos.
    """
    scores = []
    for number, batch in enumerate(batches):
        photos = batch.to(device)
        true_L, true_ab = encode(photos)
        seen, _, lost = examples(photos, repairs, ("held out", number))
        L, ab = predict(seen)
        rgb = decode(L, ab)
        score = {
            "ab_error": ab_error(ab, true_ab),
            "psnr": psnr(rgb, photos, 255),
            "colorfulness": colorfulness(rgb),
            "colorfulness_truth": colorfulness(photos)
        }
        if repairs:
            damaged = (seen != true_L).amax((1, 2, 3), True)            # (B, 1, 1, 1)
            score["L_psnr_lost"] = psnr(L, true_L, 1, lost)
            score["L_psnr_kept"] = psnr(L, true_L, 1, damaged & ~lost)
        scores.append(score)
    means = {}
    for name in scores[0]:
        # NaN is of a photo that has none of it.
        means[name] = torch.cat([score[name] for score in scores]).nanmean().item()
    return means
