"""Colour black-and-white photos at their full resolution with a generator that train.py made.

    python infer.py img.jpg out.jpg
    python infer.py album/ coloured/
"""
import math
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from pix2pix import files
from pix2pix.color import decode, encode
from pix2pix.device import fast_layout, keep_freed_memory, pick_device
from pix2pix.models import Generator
from pix2pix.photo import WRITABLE, PhotoError, find_photos, read_photo, shrink, write_photo
from pix2pix.terminal import ArgumentParser, UserError, progress, run_program

OWN_GENERATOR = Path(__file__).parent / "pix2pix/generator.pt"
STRIP = 2**18               # pixels that are coloured at once: 50 million would fill the memory


def load_generator(path, device):
    """The averaged generator that train.py saved, ready to use.

    Its .config is a dict of the options it was trained with, and of its path. Raises OSError where
    there is no such file, and UserError where it holds something else.
    """
    saved = files.load_saved(path, "generator")
    try:
        G = Generator(pretrained=False, repairs=saved["config"]["restore"])
        G.load_state_dict(saved["weights"])         # float16 becomes float32
    except (KeyError, RuntimeError):
        raise UserError(f"{path} is of another version of this program")
    G.config = saved["config"] | {"path": path}
    return G.to(device, memory_format=fast_layout(device, bf16=False)).eval()


@torch.inference_mode()
def colorize(G, photo, size, strength=1.0):
    """Colour an "RGB" photo of any size: G sees it as a square of `size` pixels.

    The colours, means of those of the photo and of its mirror image, are multiplied by `strength`:
    0 is gray. The photo's own luminance stays as it is, but for what a G that repairs changes.
    """
    device = next(G.parameters()).device
    width, height = photo.size
    small_L, _ = encode(shrink(photo, size)[None].to(device))           # (1, 1, size, size)
    # Seen mirrored, too: the mean is closer to the truth than either.
    made = (G(small_L) + G(small_L.flip(-1)).flip(-1)) / 2              # (1, 2 or 3, size, size)
    if G.repairs:
        made[:, :1] -= small_L          # only what differs: the detail of what is sound stays
    made = F.interpolate(made, (height, width), mode="bilinear")        # (1, 2 or 3, height, width)
    coloured = Image.new("RGB", photo.size)
    rows = max(1, STRIP // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = photo.crop((0, top, width, bottom))
        L, _ = encode(pil_to_tensor(strip)[None].to(device))            # (1, 1, rows, width)
        if G.repairs:
            L = L + made[:, :1, top:bottom]
        rgb = decode(L, strength * made[:, -2:, top:bottom])            # (1, 3, rows, width)
        coloured.paste(to_pil_image(rgb[0]), (0, top))
    return coloured


def parse_options(argv):
    """The options. Raises UsageError."""
    parser = ArgumentParser(prog="infer.py", description=__doc__.splitlines()[0])
    add = parser.add_argument
    writable = " ".join(WRITABLE)
    add("input", type=Path, help="a photo, or a folder with all its subfolders")
    add("output", type=Path, help=f"a file ({writable}), for a folder a folder")
    add("--checkpoint", type=Path, help="a generator.pt (default: the newest runs/*/generator.pt "
        "that was not trained on demo, or the one that comes with the project)")
    add("--size", type=int,
        help="side of the square that G sees, pixels, a multiple of 32 (default: as trained)")
    add("--strength", type=float, default=1.0, help="of colours: 0 gray, 1.3 bolder (1.0)")
    add("--device", default="auto", help="auto (cuda, else cpu), cpu, cuda:1, mps ...")
    add("--overwrite", action="store_true", help="replace outputs, but never an input")
    args = parser.parse_args(argv)
    if args.output.exists() and args.output.samefile(args.input):
        parser.error("OUTPUT is the same as INPUT, and an input is never written")
    if args.overwrite and args.input.resolve() in args.output.resolve().parents:
        parser.error("OUTPUT lies in INPUT: --overwrite could replace photos there")
    if not args.input.is_dir() and args.output.suffix.lower() not in WRITABLE:
        parser.error(f"{args.input} is no folder, and {args.output} of no format that can be "
                     f"written; these can be: {writable}")
    if args.size is not None and (args.size < 32 or args.size % 32):
        parser.error(f"--size {args.size} is not a multiple of 32")
    if not 0 <= args.strength < math.inf:
        parser.error(f"--strength {args.strength} is not 0 or more")
    return args


def default_generator(device):
    """The newest in runs/ that was not trained on demo's drawn scenes, else the project's own."""
    for path in sorted(Path("runs").glob("*/generator.pt"), key=os.path.getmtime, reverse=True):
        try:
            G = load_generator(path, device)
            if G.config["data"] != "demo":
                return G
        except (OSError, UserError) as error:
            print(f"warning: {error}", file=sys.stderr)
    return load_generator(OWN_GENERATOR, device)


def plan_folder(folder, out):
    """The photos of a folder, and for each a path of its own in the folder `out`.

    A photo of a format that cannot be written becomes a .png. Paths do not differ in case alone,
    which some disks do not see.
    """
    folder = folder.resolve()
    out = out.resolve()
    sources = find_photos(folder, out)
    targets = {}                                    # by what such a disk sees
    for source in sources:
        target = out / source.relative_to(folder)
        if target.suffix.lower() not in WRITABLE:
            target = target.with_name(target.name + ".png")
        stem = target.stem
        number = 2
        while str(target).casefold() in targets:
            target = target.with_stem(f"{stem}-{number}")
            number += 1
        targets[str(target).casefold()] = target
    return sources, list(targets.values())


def identify(path):
    """Disk and number of a file: itself, whatever name or link leads to it."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def infer(argv):
    keep_freed_memory()
    args = parse_options(argv)
    device = pick_device(args.device)
    if args.checkpoint:
        G = load_generator(args.checkpoint, device)
    else:
        G = default_generator(device)
    size = args.size or G.config["size"]
    print("{path}: trained on {data} at {size} pixels for {epochs} epochs".format(**G.config))
    is_folder = args.input.is_dir()
    if is_folder:
        sources, targets = plan_folder(args.input, args.output)
    else:
        sources = [args.input]
        targets = [args.output]
    inputs = {identify(source) for source in sources if source.exists()}

    def color_one(source, target):
        """What became of it: "coloured", "there already", or the error."""
        try:
            if target.exists() and identify(target) in inputs:
                raise PhotoError(f"{target}: an input is never written")
            if target.exists() and not args.overwrite:
                if is_folder:
                    return "there already"
                raise PhotoError(f"{target} exists already: --overwrite replaces it")
            photo = read_photo(source)
            write_photo(colorize(G, photo, size, args.strength), target, like=photo)
            return "coloured"
        except (PhotoError, OSError) as error:
            return error

    if is_folder and device.type != "mps":          # which breaks in a second thread
        # Two photos share a CPU well; a GPU waits for what the cores read and write.
        workers = min(8, os.cpu_count() or 1) if device.type == "cuda" else 2
        jobs = _together(color_one, sources, targets, workers)
    else:
        jobs = map(color_one, sources, targets)
    results = list(progress(jobs, len(sources), "photo"))
    errors = [result for result in results if isinstance(result, Exception)]
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    print(
        f"{results.count('coloured')} coloured, {results.count('there already')} there already, "
        f"{len(errors)} failed"
    )
    return 1 if errors else 0


def _together(function, sources, targets, workers):
    """The results in order, of threads that have an equal share of the cores."""
    cores = max(1, torch.get_num_threads() // workers)
    with ThreadPoolExecutor(workers, "", torch.set_num_threads, (cores,)) as pool:
        yield from pool.map(function, sources, targets)


def main(argv=None):
    return run_program(
        infer, argv,
        if_interrupted="outputs that are there are whole; the same command does the rest",
        if_out_of_memory="try --device cpu, or smaller photos"
    )


if __name__ == "__main__":
    sys.exit(main())
