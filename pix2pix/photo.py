"""One photo file in, one photo file out: every format, orientation and profile; whole files only."""
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps
from torchvision.transforms.functional import pil_to_tensor

from pix2pix.runtime import UserError, require, whole_file

# Named, so that a file can never start one of Pillow's stranger readers (PostScript runs a program).
READABLE = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
JPEG, WEBP = {"format": "JPEG", "quality": 95, "subsampling": "4:4:4"}, {"format": "WEBP", "lossless": True}
PNG, TIFF, BMP = {"format": "PNG"}, {"format": "TIFF", "exif": b""}, {"format": "BMP"}     # TIFF cannot hold all EXIF
WRITABLE = {".jpg": JPEG, ".jpeg": JPEG, ".png": PNG, ".webp": WEBP, ".tif": TIFF, ".tiff": TIFF, ".bmp": BMP}


class PhotoError(UserError):
    """A photo that cannot be read or written, and why."""


def find_photos(folder: Path, leave_out: Path | None = None) -> tuple[list[Path], int]:
    """Files below `folder` named like pictures, sorted, and the number of all files; nothing below `leave_out`."""
    extensions = {ext for ext, name in Image.registered_extensions().items() if name in READABLE} | {".heic", ".heif"}
    files = [path for path in folder.rglob("*") if not path.is_dir() and leave_out not in path.parents]
    return sorted(path for path in files if path.suffix.lower() in extensions), len(files)


def read_photo(path: Path) -> Image.Image:
    """The photo as upright 8-bit sRGB, mode "RGB"; its .info carries exif (bytes) and dpi where the file has them.

    16-bit pictures are divided by 257; float pictures are taken as [0, 1], a wider range is squeezed into that.
    Transparency lies on white. Of several pages or frames the first is taken. The rest raises PhotoError, in one line.
    """
    require(Path(path).is_file(), f"{path}: no such file", PhotoError)        # a pipe would wait for ever
    try:
        with Image.open(path, formats=READABLE) as image:
            image.load()
            return _upright_srgb(image, path)
    except Exception as error:                                  # damaged files raise nearly anything in Pillow
        raise PhotoError(f"{path}: {str(error).strip() or type(error).__name__}") from error


def write_photo(image: Image.Image, path: Path, like: Image.Image | None = None) -> None:
    """Write `image` in the format of the extension, with the EXIF and DPI of the photo `like`: whole or not at all.

    JPEG at quality 95 without chroma subsampling, the others lossless. Raises PhotoError.
    """
    try:
        with whole_file(path) as file:
            image.save(file, **(like.info if like is not None else {}) | WRITABLE[path.suffix.lower()])
    except Exception as error:                                  # a full disk, a side too long for the format
        raise PhotoError(f"{path}: cannot be written: {error}") from error


def shrink(photo: Image.Image, size: int):
    """The whole photo squashed to a square, antialiased: uint8 (3, size, size), as in training so in use."""
    return pil_to_tensor(photo.resize((size, size), Image.Resampling.LANCZOS, reducing_gap=3))


def _upright_srgb(image, path):
    has_exif, icc = "exif" in image.info, image.info.get("icc_profile")
    try:
        ImageOps.exif_transpose(image, in_place=True)
        exif = image.getexif().tobytes() if has_exif else b""                 # written anew, which drops the thumbnail
        require(len(exif) <= 65533, "more than fits into a JPEG")
    except Exception:
        exif = b""
        print(f"warning: {path}: its EXIF is damaged or too long, and left out", file=sys.stderr)
    dpi = tuple(float(value) for value in image.info.get("dpi", ()) if 0 < value < 65535)
    if image.mode.startswith(("I", "F")):
        image = _to_8_bits(image)
    mode = "L" if image.mode in ("1", "L", "LA") else "CMYK" if image.mode == "CMYK" else "RGB"
    flat = image.convert(mode)
    if image.has_transparency_data:
        flat = Image.composite(flat, Image.new(mode, flat.size, "white"), image.convert("RGBA").getchannel("A"))
    if icc:
        try:
            flat = ImageCms.profileToProfile(flat, io.BytesIO(icc), ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError) as error:
            print(f"warning: {path}: its colour profile is ignored: {error}", file=sys.stderr)
    photo = flat.convert("RGB")
    photo.info = {"exif": exif} | ({"dpi": dpi} if len(dpi) == 2 else {})
    return photo


def _to_8_bits(image):
    """Pillow's own conversion would clip these modes at 255."""
    values = np.nan_to_num(np.array(image, dtype=np.float32), nan=0, posinf=0, neginf=0)
    low, high = min(values.min(), 0), max(values.max(), 1 if image.mode == "F" else 65535)
    return Image.fromarray(((values - low) * (255 / (high - low))).round().astype(np.uint8))
