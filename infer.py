"""Colour black-and-white photos at their full resolution with a generator that train.py made.

    python infer.py img.jpg out.jpg
    python infer.py album/ coloured/
"""
import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from pix2pix import runtime
from pix2pix.color import decode, encode
from pix2pix.models import Generator
from pix2pix.photo import WRITABLE, PhotoError, find_photos, read_photo, shrink, to_image, to_tensor, write_photo

STRIP = 2**18                                      # pixels of a photo that are worked on at a time


def load_generator(path: Path, device: torch.device) -> Generator:
    """The averaged generator that train.py saved, ready to use; its .config holds the options it was trained with."""
    saved = runtime.load_saved(path, "generator")
    G = Generator(pretrained=False)
    G.load_state_dict(saved["weights"])
    G.config = saved["config"]
    return G.to(device, memory_format=torch.channels_last).eval()


@torch.inference_mode()
def colorize(G: Generator, photo: Image.Image, size: int) -> Image.Image:
    """Colour an "RGB" photo of any size: G sees it as a square of `size` pixels, its own luminance stays as it is."""
    device = next(G.parameters()).device
    width, height = photo.size
    L, _ = encode(shrink(photo, size)[None].to(device))                             # (1, 1, size, size)
    ab = F.interpolate(G(L), size=(height, width), mode="bilinear")                 # (1, 2, height, width)
    coloured = Image.new("RGB", photo.size)
    rows = max(1, STRIP // width)
    for top in range(0, height, rows):
        strip = photo.crop((0, top, width, min(top + rows, height)))
        L, _ = encode(to_tensor(strip)[None].to(device))                            # (1, 1, rows, width)
        coloured.paste(to_image(decode(L, ab[:, :, top : top + rows])[0]), (0, top))
    return coloured


def plan(source: Path, target: Path) -> tuple[list[tuple[Path, Path]], int]:
    """Pairs of input and output, and how many files of a folder are no pictures.

    A photo in a format that cannot be written becomes name.ext.png, and so does one whose output another photo has.
    """
    if not source.is_dir():
        return [(source, target)], 0
    root, out = source.resolve(), target.resolve()
    photos, others = find_photos(source, leave_out=source / out.relative_to(root) if root in out.parents else None)
    pairs, taken = [], set()                       # taken without case: Photo.jpg is photo.jpg on a Mac
    for photo in sorted(photos, key=lambda path: path.suffix.lower() not in WRITABLE):   # names that can stay first
        output = target / photo.relative_to(source)
        while output.suffix.lower() not in WRITABLE or str(output).casefold() in taken:
            output = output.with_name(output.name + ".png")
        taken.add(str(output).casefold())
        pairs.append((photo, output))
    return sorted(pairs), others


def parse_options(argv):
    parser = runtime.ArgumentParser(prog="infer.py", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("input", type=Path, metavar="INPUT", help="a photo, or a folder of photos, searched through all its subfolders")
    add("output", type=Path, metavar="OUTPUT", help=f"a file ({' '.join(WRITABLE)}), or for a folder a folder")
    newest = max(Path("runs").glob("*/generator.pt"), key=os.path.getmtime, default=Path("runs/*/generator.pt"))
    add("--checkpoint", type=Path, default=newest, help="a generator.pt (default: the newest runs/*/generator.pt)")
    add("--size", type=int, help="side of the square that G sees, pixels, a multiple of 32 (default: as trained)")
    add("--device", default="auto", help="auto (cuda, else cpu), cpu, cuda, cuda:1, mps ... (default: %(default)s)")
    add("--overwrite", action="store_true", help="replace outputs that exist already; an input is never replaced")
    args = parser.parse_args(argv)
    if args.size is not None and (args.size < 32 or args.size % 32):
        parser.error(f"--size {args.size} is not a multiple of 32")
    return args


def check(source: Path, target: Path, overwrite: bool) -> None:
    """What can be known to be wrong before any work."""
    source.stat()                                  # OSError, if there is no such file or folder
    if target.exists() and os.path.samefile(source, target):
        raise runtime.UsageError(f"{target} is the same as INPUT, and an input is never written")
    if not source.is_dir() and target.suffix.lower() not in WRITABLE:
        raise runtime.UsageError(f"{target}: cannot write this format; these can be written: {' '.join(WRITABLE)}")
    if not source.is_dir() and target.exists() and not overwrite:
        raise runtime.UserError(f"{target} exists already: --overwrite replaces it")


def infer(argv) -> int:
    args = parse_options(argv)
    check(args.input, args.output, args.overwrite)
    G = load_generator(args.checkpoint, runtime.pick_device(args.device))
    print("{}: trained on {data} at {size} pixels for {epochs} epochs".format(args.checkpoint, **G.config))
    pairs, others = plan(args.input, args.output)
    inputs = {os.stat(source)[1:3] for source, _ in pairs if source.exists()}       # inode and device: the file itself,
    failures, there = [], 0
    for source, target in runtime.progress(pairs, len(pairs), "colouring", "photos"):
        try:
            if target.exists() and os.stat(target)[1:3] in inputs:                  # whatever name or link leads to it
                raise PhotoError(f"{source}: its output {target} is an input, and an input is never written")
            if target.exists() and not args.overwrite:
                there += 1
                continue
            photo = read_photo(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_photo(colorize(G, photo, args.size or G.config["size"]), target, like=photo)
        except (PhotoError, OSError) as error:
            failures.append(error)
    for error in failures:
        print(f"error: {error}", file=sys.stderr)
    done = len(pairs) - there - len(failures)
    print(f"{done} coloured, {there} there already, {len(failures)} failed, {others} other files left alone")
    return 1 if failures else 0


def main(argv=None) -> int:
    return runtime.run(infer, argv, "outputs that are there are whole; the same command does the rest", "--size")


if __name__ == "__main__":
    sys.exit(main())
