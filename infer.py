"""Color black-and-white photos at their full resolution with a trained generator.

    python infer.py img.jpg out.jpg
    python infer.py album/ colored/
"""
import errno
import sys
import unicodedata
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from pix2pix.color import decode, encode_L
from pix2pix.device import keep_freed_memory, pick_device
from pix2pix.folders import find_photos
from pix2pix.photo import WRITABLE, PhotoError, content_box, read_photo, shrink, write_photo
from pix2pix.repair import fill_holes, load_repairer
from pix2pix.terminal import (
    ArgumentParser, UserError, is_out_of_memory, print_line, progress, run_program
)
from pix2pix.weights import load_generator

BUNDLED_GENERATOR = Path(__file__).parent / "pix2pix/generator.pt"
RADIUS = 3                  # of the guided filter, in pixels of what G sees
EPSILON = 1e-4              # a variance of L: contrast far below its root, 0.01, is no edge
STRIP = 2**16               # pixels converted at once: few enough for the processor's cache
MAX_PIXELS = 300_000_000    # A3 at 1200 dpi has 278 million, which take 8 GB
IF_OUT_OF_MEMORY = "try --device cpu, or smaller photos"


def predict_mirrored(network, L):
    """The mean of the outputs for L (B, 1, H, W) and for its mirror image: closer to the truth."""
    return (network(L) + network(L.flip(-1)).flip(-1)) / 2


def guided_filter(L, ab):
    """Fit ab = slope * L + offset around each pixel: (B, 4, H, W), both slopes, then both offsets.

    This is the fast guided filter (He and Sun 2015, https://arxiv.org/abs/1505.00996). Slope and
    offset are enlarged instead of ab, and applied to the photo's own L. So colors end where objects
    end, where enlarged ab would bleed over every sharp edge.
    """
    def mean(x):                                        # over (2 * RADIUS + 1)^2 pixels
        return F.avg_pool2d(x, 2 * RADIUS + 1, 1, RADIUS, count_include_pad=False)

    variance = mean(L * L) - mean(L) ** 2               # (B, 1, H, W)
    covariance = mean(L * ab) - mean(L) * mean(ab)      # (B, 2, H, W)
    slope = covariance / (variance + EPSILON)
    offset = mean(ab) - slope * mean(L)
    return mean(torch.cat((slope, offset), dim=1))


def enlarged_rows(maps, height, rows):
    """The given rows, (N,), of maps (B, C, h, W) stretched bilinearly to `height`: (B, C, N, W)."""
    last = maps.shape[2] - 1
    row = ((rows + 0.5) * maps.shape[2] / height - 0.5).clamp(0, last)
    above = row.long()
    below = (above + 1).clamp(max=last)
    weight = (row - above)[:, None]
    return torch.lerp(maps.index_select(2, above), maps.index_select(2, below), weight)


@torch.inference_mode()
def colorize(G, photo, size, strength=1.0):
    """Color an "RGB" photo of any size. G sees it as a square of `size` pixels.

    ab is multiplied by `strength`: 0 is gray. The photo keeps its own L.
    """
    device = next(G.parameters()).device
    width, height = photo.size
    left, top, right, bottom = content_box(photo)
    content = photo.crop((left, top, right, bottom))
    small_L = encode_L(shrink(content, (size, size))[None].to(device))  # (1, 1, size, size)
    ab = strength * predict_mirrored(G, small_L)                        # (1, 2, size, size)
    maps = guided_filter(small_L, ab)                                   # (1, 4, size, size)
    maps = F.interpolate(maps, (size, right - left), mode="bilinear")
    maps = F.pad(maps, (left, width - right))                           # (1, 4, size, width)
    colored = Image.new("RGB", photo.size)
    strip_height = max(1, STRIP // width)
    for y in range(0, height, strip_height):
        end = min(y + strip_height, height)
        strip = pil_to_tensor(photo.crop((0, y, width, end)))
        L = encode_L(strip[None].to(device))                            # (1, 1, rows, width)
        rows = torch.arange(y - top, end - top, device=device)
        slope, offset = enlarged_rows(maps, bottom - top, rows).split(2, dim=1)
        is_content = (rows >= 0) & (rows < bottom - top)
        ab = (slope * L + offset) * is_content[:, None]                 # (1, 2, rows, width)
        rgb = decode(L, ab)                                             # (1, 3, rows, width)
        colored.paste(to_pil_image(rgb[0]), (0, y))
    return colored


def parse_options(argv):
    """The options. Raises UsageError."""
    parser = ArgumentParser(prog="infer.py", description=__doc__.splitlines()[0])
    add = parser.add_argument
    writable = " ".join(WRITABLE)
    add("input", type=Path, help="a photo, or a folder with all its subfolders")
    add("output", type=Path, help=f"a file ({writable}) or a folder; for a folder, a folder")
    add("--checkpoint", type=Path, default=BUNDLED_GENERATOR,
        help="a generator.pt of train.py (the bundled generator)")
    add("--strength", type=float, default=1.0, help="0 is gray, 1.3 bolder, 10 the most (1.0)")
    add("--repair", action="store_true",
        help="fill white cracks, flakes and worn edges, too: for damaged prints only")
    add("--device", default="auto", help="cpu, cuda:1, mps ..., or auto: cuda if any, else cpu")
    add("--overwrite", action="store_true", help="replace existing outputs, but never an input")
    args = parser.parse_args(argv)
    is_into_folder = args.input.is_dir() or args.output.is_dir()
    if args.overwrite and args.input.resolve() in args.output.resolve().parents:
        parser.error("OUTPUT lies in INPUT: --overwrite could replace photos there")
    if not is_into_folder and args.output.suffix.lower() not in WRITABLE:
        parser.error(f"{args.input} is not a folder, and {args.output} has none of the extensions "
                     f"that can be written: {writable}")
    if not 0 <= args.strength <= 10:                    # also refuses NaN
        parser.error(f"--strength {args.strength} is not between 0 and 10")
    return args


def plan(source, output):
    """What to color: pairs of a photo and its output, and problems met on the way.

    `source` is a photo or a folder; `output` may be a folder in both cases, as for cp. A photo in a
    format that cannot be written becomes a .png. An output is None if another photo already has
    it. Names that differ only in case or in Unicode normalization count as equal, as they do on
    some disks.
    """
    if source.is_dir():
        source = source.resolve()
        output = output.resolve()
        photos, problems = find_photos(source, output)
        names = [photo.relative_to(source) for photo in photos]
    elif output.is_dir():
        photos = [source]
        problems = []
        names = [Path(source.name)]
    else:
        return [(source, output)], []
    jobs = []
    taken = set()
    for photo, name in zip(photos, names):
        target = output / name
        if target.suffix.lower() not in WRITABLE:
            target = target.with_name(target.name + ".png")
        key = unicodedata.normalize("NFC", str(target)).casefold()
        jobs.append((photo, None if key in taken else target))
        taken.add(key)
    return jobs, problems


def file_id(path):
    """The disk and number of a file: equal for every name and link that leads to it."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def check_target(source, target, inputs):
    """Raise PhotoError if the output must not be written. `inputs` holds the ids of all photos."""
    if target is None:
        raise PhotoError(f"{source}: another photo has the same output: rename one")
    if target.exists() and file_id(target) in inputs:
        raise PhotoError(f"{target}: an input is never written")


def color_file(G, R, source, target, strength):
    """Color one photo file, and repair it first if there is a Repairer R."""
    photo = read_photo(source)
    if R:
        fill_holes(R, photo)
    colored = colorize(G, photo, G.config["size"], strength)
    write_photo(colored, target, like=photo)


def is_disk_full(error):
    cause = error.__cause__ or error                    # write_photo says which photo it was
    return getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT)


def describe(error, source):
    """What went wrong with a photo, in one line that names it."""
    if isinstance(error, (UserError, OSError)):         # their messages do
        return str(error)
    if is_out_of_memory(error):
        return f"{source}: out of memory: {IF_OUT_OF_MEMORY}"
    return f"{source}: {type(error).__name__}: {error}"


def infer(argv):
    keep_freed_memory()
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2        # Pillow refuses twice as many
    args = parse_options(argv)
    device = pick_device(args.device)
    R = load_repairer(args.checkpoint, device) if args.repair else None
    G = R.G if R else load_generator(args.checkpoint, device)
    jobs, problems = plan(args.input, args.output)
    inputs = {file_id(source) for source, _ in jobs if source.exists()}
    for problem in problems:
        print_line(f"error: {problem}")
    colored = 0
    skipped = 0
    failed = len(problems)
    for source, target in progress(jobs, len(jobs), "photo"):
        try:
            check_target(source, target, inputs)
            if not target.exists() or args.overwrite:
                color_file(G, R, source, target, args.strength)
                colored += 1
            elif args.input.is_dir():
                skipped += 1
            else:
                raise PhotoError(f"{target} already exists: --overwrite replaces it")
        except Exception as error:      # whatever it is, the other photos are colored
            if is_disk_full(error):
                raise
            failed += 1
            print_line(f"error: {describe(error, source)}")
    print(f"{colored} colored, {skipped} skipped (already there), {failed} failed")
    return 1 if failed else 0


def main(argv=None):
    return run_program(
        infer, argv,
        if_interrupted="finished outputs are complete; the same command colors the rest",
        if_out_of_memory=IF_OUT_OF_MEMORY
    )


if __name__ == "__main__":
    sys.exit(main())
