"""Repairs of old prints: the network, its training (train.py --restore) and infer.py --repair.

The colorizer does not need this file, nor damage.py.
"""
import copy
import time

import torch
import torch.nn.functional as F
from torch.nn import Conv2d, Module
from torch.optim import Adam
from torchvision.transforms.functional import to_pil_image

from pix2pix.color import L_SCALE, decode_gray, encode_L
from pix2pix.damage import damage
from pix2pix.data import batches, gather, load_split, seeded
from pix2pix.device import processes, rank_0_first, set_up, wrap_ddp
from pix2pix.metrics import mean_losses, mean_scores, psnr
from pix2pix.models import Decoder, init_weights, update_ema
from pix2pix.photo import content_box, shrink
from pix2pix.run import Run
from pix2pix.terminal import UserError
from pix2pix.weights import half_precision, load_generator, load_saved

REPAIR_SIDE = 640           # pixels of the longer side: holes are then as wide as in training


class Repairer(Module):
    """Damaged L (B, 1, H, W) in [0, 1] -> the change (B, 1, H, W) that repairs it.

    A second, smaller U-Net decoder on the encoder of a trained generator, which never changes.
    """

    def __init__(self, G):
        super().__init__()
        self.G = G.requires_grad_(False)
        self.decoder = Decoder(G.feature_channels, 64, 64, 64, 32, 16)
        self.head = Conv2d(16, 2, 1).apply(init_weights)

    def train(self, mode=True):
        super().train(mode)
        self.G.eval()                   # the statistics of its BatchNorm stay
        return self

    def holes(self, L):
        """Alpha, how much of each pixel to replace, and the L to fill in: (B, 2, H, W), 0 to 1."""
        x = self.decoder(*self.G.features(L))                           # (B,  16, H,    W)
        return torch.sigmoid(self.head(x).float())                      # (B,   2, H,    W)

    def forward(self, L):
        alpha, fill = self.holes(L).split(1, dim=1)                     # (B,   1, H,    W)
        return alpha * (fill - L)


def repair_loss(output, target):
    """Mean absolute error of the change of L. Errors in holes count 12 times.

    Holes cover few pixels, and would otherwise contribute almost nothing. (Liu et al. 2018 use 6.
    With 12, more of real cracks is repaired.)
    """
    weight = torch.where(target == 0, 1.0, 12.0)
    return F.l1_loss(output, target, weight=weight)


def repair_step(R, opt, L, target, l1_weight, autocast):
    """One step on damaged L and the change that repairs it. Returns the loss, detached."""
    with autocast:
        output = R(L)
    l1 = repair_loss(output, target)
    opt.zero_grad()
    (l1_weight * l1).backward()
    opt.step()
    return {"l1": l1.detach()}


def examples(rgb_u8, rng):
    """Photos (B, 3, H, W) -> damaged L, and the change that repairs it, (B, 1, H, W) each."""
    aged, damaged = damage(encode_L(rgb_u8), rng)
    return damaged, aged - damaged


@torch.no_grad()
def evaluate_repairs(network, photos, device):
    """Score a network on validation photos, with the same damage every time.

    Returns "L_error", the mean absolute error of L in CIE units, and "psnr" in dB.
    """
    scores = []
    for number, part in enumerate(photos.val_indices.split(16)):
        rgb = gather(photos.images, device, part)
        L, target = examples(rgb, seeded(("held out", number), device))
        output = network(L)
        scores.append({
            "L_error": L_SCALE * (output - target).abs().mean(dim=(1, 2, 3)),
            "psnr": psnr(decode_gray(L + output), decode_gray(L + target))
        })
    return mean_scores(scores)


@torch.no_grad()
def repair_samples(R, rgb_u8):
    """uint8 photos (B, 3, S, S) -> uint8 (3 B, 3, S, S): for each, damaged, repaired, whole."""
    L, target = examples(rgb_u8, seeded("samples", rgb_u8.device))
    pictures = [decode_gray(L), decode_gray(L + R(L)), decode_gray(L + target)]
    return torch.stack(pictures, dim=1).flatten(0, 1).cpu()


def train_repairs(config, saved):
    """Teach the generator config.restore to repair. What colors stays as it is, bit for bit."""
    device, memory_format, autocast = set_up(config)
    torch.manual_seed(config.seed % 2**63)
    with rank_0_first():
        photos = load_split(config, device)
        R = initial_repairer(config.restore)
    R.to(device, memory_format=memory_format).train()
    ema = copy.deepcopy(R).eval().requires_grad_(False)
    opt = Adam(R.parameters(), config.lr, betas=(0.5, 0.999), fused=True)
    baseline = evaluate_repairs(torch.zeros_like, photos, device)
    run = Run(config, photos.fingerprint, "L_error", baseline, {"R": R, "ema": ema, "opt": opt})
    if saved:
        run.load(saved)
    fit_repairs(run, photos, device, autocast, R, ema, opt)
    run.finish()


def fit_repairs(run, photos, device, autocast, R, ema, opt):
    """The loop of train.py's L1 phase, for repairs."""
    config = run.config
    wrapped = wrap_ddp(R)
    for epoch in range(len(run.rows), config.pretrain_epochs + 1):
        label = f"repair {epoch}/{config.pretrain_epochs}"
        start = time.perf_counter()
        losses = []
        for step, rgb, rng in batches(photos, config, epoch, device, label):
            L, target = examples(rgb, rng)
            losses.append(repair_step(wrapped, opt, L, target, config.l1_weight, autocast))
            update_ema(ema, R, step)
        if processes()[0] > 0:
            continue
        row = {"phase": "repair", "epoch": epoch, "seconds": time.perf_counter() - start}
        with autocast:
            row |= mean_losses(losses) | evaluate_repairs(ema, photos, device)
            shown = gather(photos.images, device, photos.val_indices[:8])
            pictures = repair_samples(ema, shown)
        run.log(row, label)
        if epoch == config.pretrain_epochs or run.is_due():
            run.save(pictures, repairer_file(ema))


def repairer_file(R):
    """What generator.pt holds: the generator that R is for, and what repairs."""
    repairs = {name: weight for name, weight in half_precision(R).items()
               if not name.startswith("G.")}
    return {
        "kind": "generator",
        "config": R.G.config,
        "weights": half_precision(R.G),
        "repairs": repairs
    }


def load_repairer(path, device="cpu"):
    """The Repairer that train.py --restore saved at `path`, with its generator .G.

    Raises OSError if there is no such file, and UserError if it cannot repair.
    """
    R = Repairer(load_generator(path))
    saved = load_saved(path, "generator")
    if "repairs" not in saved:
        raise UserError(f"{path} cannot repair: train.py --restore teaches it to")
    try:
        R.load_state_dict(R.state_dict() | saved["repairs"])
    except RuntimeError:
        raise UserError(f"{path} is from another version of this program")
    return R.to(device).eval()


def initial_repairer(path):
    """The Repairer of the generator at `path`: the one it was saved with, or else a new one."""
    if "repairs" in load_saved(path, "generator"):
        return load_repairer(path)
    return Repairer(load_generator(path))


@torch.inference_mode()
def fill_holes(R, photo):
    """Fill the holes of an "RGB" photo, in place.

    The mask has 8 bits, so pixels with an alpha below 1/255 stay exactly as they are.
    """
    box = content_box(photo)
    content = photo.crop(box)
    scale = min(1, REPAIR_SIDE / max(content.size))
    size = [max(32, round(scale * side / 32) * 32) for side in content.size]
    device = next(R.parameters()).device
    L = encode_L(shrink(content, size)[None].to(device))                # (1, 1, h, w)
    alpha, fill = R.holes(L).split(1, dim=1)
    mask = to_pil_image(alpha[0]).resize(content.size)
    filling = to_pil_image(decode_gray(fill)[0]).resize(content.size)
    photo.paste(filling, box, mask)
