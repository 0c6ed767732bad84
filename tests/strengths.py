"""Figures of generators on their validation photos, at several strengths of their colors.

    python -m tests.strengths runs/mine/generator.pt
    python -m tests.strengths runs/mine/generator.pt runs/other/generator.pt

The photos are the validation photos of the first: run it where its --data is. With a second
generator, it also prints how much they differ, photo by photo, with the standard error.
"""
import argparse
from pathlib import Path

import torch

import infer
from pix2pix import data
from pix2pix.color import AB_SCALE, colorfulness, decode, encode
from pix2pix.device import pick_device
from pix2pix.metrics import psnr

STRENGTHS = (0.5, 0.75, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0)


def mean_error(ab, truth):
    """Mean absolute error of ab (B, 2, H, W) in CIE units, (B,)."""
    return AB_SCALE * (ab - truth).abs().mean(dim=(1, 2, 3))


@torch.inference_mode()
def figures(G, batches, mirror):
    """ab error, PSNR, colorfulness, and gray's ab error and the truth's colorfulness of each photo.

    (5, photos) by strength; with `mirror` as infer.py does it.
    """
    found = {strength: [] for strength in STRENGTHS}
    for photos in batches:
        L, truth = encode(photos)
        ab = infer.predict_mirrored(G, L) if mirror else G(L)
        for strength, rows in found.items():
            rgb = decode(L, strength * ab)
            rows.append(torch.stack((
                mean_error(strength * ab, truth), psnr(rgb, photos), colorfulness(rgb),
                mean_error(torch.zeros_like(truth), truth), colorfulness(photos)
            )))
    return {strength: torch.cat(rows, dim=1) for strength, rows in found.items()}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("generators", type=Path, nargs="+", help="one or two generator.pt")
    parser.add_argument("--data", help="the photos, if they lie elsewhere now")
    parser.add_argument("--plain", action="store_true", help="without the mirrored photo")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps ...")
    args = parser.parse_args(argv)
    device = pick_device(args.device)
    nets = [infer.load_generator(path, device) for path in args.generators]
    config = nets[0].config
    images, _, _, _ = data.load_photos(args.data or config["data"], config["size"], config["limit"])
    _, val_indices = data.split(len(images), config["val"], config["seed"])
    batches = [data.gather(images, device, indices) for indices in val_indices.split(50)]
    tables = [figures(G, batches, not args.plain) for G in nets]
    print(f"{len(val_indices)} photos; ab error in % of gray's, colorfulness in % of truth's, dB")
    for strength, table in tables[0].items():
        error, decibel, colors, gray, true_colors = table.mean(dim=1).tolist()
        line = f"{strength:4} {100 * error / gray:6.1f} {100 * colors / true_colors:6.1f}"
        line += f" {decibel:6.2f}"
        if len(tables) > 1:
            difference = table[:3] - tables[1][strength][:3]
            scale = torch.tensor([100 / gray, 1, 100 / true_colors], device=device)
            mean = (scale * difference.mean(dim=1)).tolist()
            error = (scale * difference.std(dim=1) / difference.shape[1] ** 0.5).tolist()
            pairs = zip(("error", "dB", "color"), mean, error)
            line += ";  " + ", ".join(f"{name} {m:+.2f} +- {e:.2f}" for name, m, e in pairs)
        print(line)


if __name__ == "__main__":
    main()
