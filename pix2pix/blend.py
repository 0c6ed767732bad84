"""Blend two generators: L1 makes pale and safe colors, the GAN phase bold and often wrong ones.

    python -m pix2pix.blend runs/mine/pretrained.pt runs/mine/generator.pt 0.5 runs/mine/half.pt

The weights of the result lie between those of both: 0.5 is the middle. This is the network
interpolation of Wang et al. 2018 (ESRGAN, section 3.4), https://arxiv.org/abs/1809.00219.
"""
import sys
from pathlib import Path

from pix2pix.terminal import ArgumentParser, UserError, run_program
from pix2pix.weights import load_saved, save_weights


def blend(argv):
    parser = ArgumentParser(prog="pix2pix.blend", description=__doc__.splitlines()[0])
    parser.add_argument("first", type=Path, help="a generator.pt, such as pretrained.pt")
    parser.add_argument("second", type=Path, help="another one that began with the same weights")
    parser.add_argument("share", type=float, help="of the second: 0 to 1")
    parser.add_argument("out", type=Path, help="the new generator.pt")
    args = parser.parse_args(argv)
    if not 0 <= args.share <= 1:                        # also refuses NaN
        parser.error(f"share {args.share} is not between 0 and 1")
    if args.out.exists():
        raise UserError(f"{args.out} already exists: choose another name")
    blended = load_saved(args.first, "generator")
    weights = blended["weights"]
    others = load_saved(args.second, "generator")["weights"]
    if weights.keys() != others.keys():
        raise UserError(f"{args.first} and {args.second} are different networks")
    for name, weight in weights.items():
        if weight.is_floating_point():              # all but BatchNorm's counters
            weights[name] = weight.float().lerp(others[name].float(), args.share).to(weight.dtype)
    blended.pop("repairs", None)                        # they were learned with another encoder
    save_weights(args.out, blended)
    return 0


def main(argv=None):
    return run_program(
        blend, argv, if_interrupted="nothing is written", if_out_of_memory="close other programs"
    )


if __name__ == "__main__":
    sys.exit(main())
