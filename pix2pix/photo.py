"""One photo file in, one photo file out: every format, orientation and profile."""
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torchvision.transforms.functional import pil_to_tensor

from pix2pix.files import whole_file
from pix2pix.terminal import UserError

# Named, so that no file starts one of Pillow's stranger readers (PostScript runs a program).
READABLE = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
JPEG = {"format": "JPEG", "quality": 95, "subsampling": "4:4:4"}
TIFF = {"format": "TIFF", "exif": b""}              # which cannot hold all EXIF
WRITABLE = {
    ".jpg": JPEG,
    ".jpeg": JPEG,
    ".png": {"format": "PNG"},
    ".webp": {"format": "WEBP", "lossless": True},
    ".tif": TIFF,
    ".tiff": TIFF,
    ".bmp": {"format": "BMP"}
}
MOST_EXIF_IN_JPEG = 65533                           # bytes


class PhotoError(UserError):
    """A photo that cannot be read or written, and why."""


def find_photos(folder, leave_out=None):
    """Files below `folder` that are named like photos, sorted.

    If the folder `leave_out` lies in it, none of that. Both are resolved paths.
    """
    named = {".heic", ".heif"}          # which cannot be read, and are told so
    named |= {end for end, name in Image.registered_extensions().items() if name in READABLE}
    photos = folder.rglob("*")
    if leave_out and folder in leave_out.parents:
        photos = [path for path in photos if leave_out not in path.parents]
    return sorted(path for path in photos if path.suffix.lower() in named and not path.is_dir())


def read_photo(path):
    """The photo as upright 8-bit sRGB, mode "RGB"; .info has the file's exif (bytes) and dpi.

    16-bit pictures are divided by 257; float pictures are taken as [0, 1], and a wider range is
    squeezed into that. Transparency lies on white. Of several pages or frames the first is taken.
    Raises PhotoError, in one line, for all that cannot be read.
    """
    if not Path(path).is_file():                    # a pipe would wait for ever
        raise PhotoError(f"{path}: no such file")
    return _read(path, path)


def check_photo(content):
    """The content of a file, if it is a whole photo; else raises PhotoError."""
    _read(io.BytesIO(content), "what came")
    return content


def write_photo(image, path, like=None):
    """Write `image` in the format of the extension, with the EXIF and DPI of the photo `like`.

    JPEG at quality 95 without chroma subsampling, the others lossless. Whole or not at all. Raises
    PhotoError.
    """
    options = dict(like.info) if like else {}
    options |= WRITABLE[path.suffix.lower()]
    if options["format"] == "JPEG" and len(options.get("exif", b"")) > MOST_EXIF_IN_JPEG:
        _warn(path, "its EXIF is longer than a JPEG can hold, and left out")
        del options["exif"]
    try:
        with whole_file(path) as file:
            image.save(file, **options)
    except Exception as error:          # a full disk, a side too long for the format
        raise PhotoError(f"{path}: cannot be written: {error}")


def shrink(photo, size):
    """The whole photo squashed to a square: uint8 (3, size, size), as in training so in use."""
    return pil_to_tensor(photo.resize((size, size), Image.Resampling.LANCZOS, reducing_gap=3))


def _read(file, name):
    try:
        with Image.open(file, formats=READABLE) as image:
            image.load()
            return _upright_srgb(image, name)
    except UnidentifiedImageError:
        formats = " ".join(READABLE)
        raise PhotoError(f"{name}: none of the formats that can be read: {formats}")
    except Exception as error:          # damaged files raise nearly anything in Pillow
        reason = str(error).strip() or type(error).__name__
        raise PhotoError(f"{name}: {reason}")


def _upright_srgb(image, name):
    icc = image.info.get("icc_profile")
    dpi = tuple(map(float, image.info.get("dpi", ())))
    exif = _turn_upright(image, name)
    if image.mode.startswith(("I", "F")):
        image = _to_8_bits(image)
    mode = {"1": "L", "L": "L", "LA": "L", "CMYK": "CMYK"}.get(image.mode, "RGB")
    flat = image.convert(mode)
    if image.has_transparency_data:
        white = Image.new(mode, flat.size, "white")
        flat = Image.composite(flat, white, image.convert("RGBA").getchannel("A"))
    if icc:
        flat = _to_srgb(flat, icc, name)
    photo = flat.convert("RGB")
    photo.info = {"exif": exif}
    if len(dpi) == 2 and all(1 < value < 65535 for value in dpi):       # 1 is Pillow's for none
        photo.info["dpi"] = dpi
    return photo


def _turn_upright(image, name):
    """Turn the picture as its EXIF says; the EXIF that is left, without a thumbnail."""
    has_exif = "exif" in image.info
    try:
        ImageOps.exif_transpose(image, in_place=True)
        # Written anew, which drops a thumbnail.
        return image.getexif().tobytes() if has_exif else b""
    except Exception:
        _warn(name, "its EXIF is damaged, and left out")
        return b""


def _to_8_bits(image):
    """Pillow's own conversion would clip these modes at 255."""
    values = np.nan_to_num(np.array(image, np.float32), posinf=0, neginf=0)
    low = min(values.min(), 0)
    high = max(values.max(), 1 if image.mode == "F" else 65535)
    levels = (values - low) * (255 / (high - low))
    return Image.fromarray(levels.round().astype(np.uint8))


def _to_srgb(flat, icc, name):
    srgb = ImageCms.createProfile("sRGB")
    try:
        return ImageCms.profileToProfile(flat, io.BytesIO(icc), srgb, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        _warn(name, f"its colour profile is ignored: {error}")
        return flat


def _warn(name, message):
    print(f"warning: {name}: {message}", file=sys.stderr)
