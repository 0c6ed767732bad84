"""Colour black-and-white photos at their full resolution with a generator that train.py made.

    python infer.py img.jpg out.jpg
    python infer.py album/ coloured/
"""
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from pix2pix import runtime
from pix2pix.color import decode, luminance
from pix2pix.models import Generator
from pix2pix.photo import WRITABLE, PhotoError, find_photos, read_photo, shrink, write_photo


def load_generator(path: Path, device: torch.device) -> Generator:
    """The averaged generator that train.py saved, ready to use; its .config holds the options it was trained with."""
    saved = runtime.load_saved(path, "generator")
    G = Generator(pretrained=False, out_channels=2 + saved["config"].get("restore", False))
    G.load_state_dict(saved["weights"])
    G.config = saved["config"]
    return G.to(device, memory_format=torch.channels_last).eval()


@torch.inference_mode()
def colorize(G: Generator, photo: Image.Image, size: int) -> Image.Image:
    """Colour an "RGB" photo of any size: G sees it as a square of `size` pixels.

    Its own luminance stays as it is, but for what a G with `out_channels` 3 repairs.
    """
    device = next(G.parameters()).device
    width, height = photo.size
    small = luminance(shrink(photo, size)[None].to(device))                         # (1, 1, size, size)
    added = G(small).contiguous()                                                   # (1, 2 or 3, size, size)
    added[:, :-2] -= small                         # of an L of its own, only what differs is enlarged and added
    added = torch.nn.functional.interpolate(added, (height, width), mode="bilinear")        # (1, 2 or 3, height, width)
    coloured = Image.new("RGB", photo.size)
    rows = max(1, 2**18 // width)                  # in strips of a quarter of a megapixel, or 50 would fill the memory
    for top in range(0, height, rows):
        # (1, 1, rows, width):
        L = luminance(pil_to_tensor(photo.crop((0, top, width, min(top + rows, height))))[None].to(device))
        correction, ab = added[:, :, top : top + rows].tensor_split((-2,), dim=1)
        coloured.paste(to_pil_image(decode(L + correction.sum(dim=1, keepdim=True), ab)[0]), (0, top))
    return coloured


def infer(argv) -> int:
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
    if args.output.exists() and os.path.samefile(args.input, args.output):
        parser.error("OUTPUT is the same as INPUT, and an input is never written")
    if not args.input.is_dir() and args.output.suffix.lower() not in WRITABLE:
        parser.error(f"{args.output}: cannot write this format; these can be written: {' '.join(WRITABLE)}")
    if args.size is not None and (args.size < 32 or args.size % 32):
        parser.error(f"--size {args.size} is not a multiple of 32")

    G = load_generator(args.checkpoint, runtime.pick_device(args.device))
    print("{}: trained on {data} at {size} pixels for {epochs} epochs".format(args.checkpoint, **G.config))
    sources, targets, files = [args.input], [args.output], 1
    if args.input.is_dir():
        root, out = args.input.resolve(), args.output.resolve()
        sources, files = find_photos(root, leave_out=out if root in out.parents else None)
        names = [source.name if source.suffix.lower() in WRITABLE else source.name + ".png" for source in sources]
        targets = [out / source.relative_to(root).with_name(name) for source, name in zip(sources, names)]
    runtime.require(len({*targets}) == len(sources), "a.gif and a.gif.png have one output: rename one")
    # Inode and device: the file itself, whatever name or link leads to it.
    inputs = {source.stat()[1:3] for source in sources if source.exists()}

    def color_one(source, target):
        try:
            if target.exists():
                runtime.require(target.stat()[1:3] not in inputs, f"{target}: an input is never written", PhotoError)
                if args.input.is_dir() and not args.overwrite:
                    return "there already"
                runtime.require(args.overwrite, f"{target} exists already: --overwrite replaces it", PhotoError)
            photo = read_photo(source)
            write_photo(colorize(G, photo, args.size or G.config["size"]), target, like=photo)
            return "coloured"
        except (PhotoError, OSError) as error:
            return error

    # Two photos at a time, with half of the cores each; but MPS breaks in a second thread, and OpenMP is slower there.
    with ThreadPoolExecutor(2, "", torch.set_num_threads, (torch.get_num_threads() // 2 or 1,)) as pool:
        each = map if len(sources) == 1 or args.device.startswith("mps") else pool.map
        results = list(runtime.progress(each(color_one, sources, targets), len(sources), "colouring", "photos"))
    errors = [result for result in results if isinstance(result, Exception)]
    print("".join(f"error: {error}\n" for error in errors), end="", file=sys.stderr)
    done, kept = results.count("coloured"), results.count("there already")
    print(f"{done} coloured, {kept} there already, {len(errors)} failed, {files - len(sources)} other files left alone")
    return 1 if errors else 0


def main(argv=None) -> int:
    return runtime.run(infer, argv, "outputs that are there are whole; the same command does the rest", "--size")


if __name__ == "__main__":
    sys.exit(main())
