"""One photo file in, one photo file out: every format, orientation and color profile."""
import io
import re
from copy import copy
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError
from torchvision.transforms.functional import pil_to_tensor

from pix2pix.files import whole_file
from pix2pix.terminal import UserError, print_line

# Pillow may open only these formats. Others are unsafe: its PostScript reader runs a program.
READABLE = "JPEG PNG WEBP TIFF BMP GIF PPM JPEG2000 AVIF".split()
JPEG = {"format": "JPEG", "quality": 95, "subsampling": "4:4:4"}
TIFF = {"format": "TIFF"}
WRITABLE = {
    ".jpg": JPEG,
    ".jpeg": JPEG,
    ".png": {"format": "PNG"},
    ".webp": {"format": "WEBP", "lossless": True},
    ".tif": TIFF,
    ".tiff": TIFF
}
MAX_IN_JPEG = {"exif": 65533, "xmp": 65502}         # bytes
MAX_JPEG_SIDE = 65500                               # pixels, by libjpeg
BORDER_NOISE = 6                                    # root mean square, in levels of 255

TAG = ExifTags.Base
# The EXIF tags that describe the photo. The others describe the layout of its file.
DESCRIPTIVE = """
    DocumentName PageName ImageDescription Artist Copyright Make Model Software HostComputer
    DateTime Rating RatingPercent XPTitle XPComment XPAuthor XPKeywords XPSubject
    ExifOffset GPSInfo
""".split()
# What EXIF and XMP say about pixels that have changed.
STALE = "ColorSpace Gamma ExifInteroperabilityOffset ExifImageWidth ExifImageHeight".split()
STALE_XMP = (
    rb"(?:tiff:Orientation|tiff:ImageWidth|tiff:ImageLength|exif:PixelXDimension|"
    rb"exif:PixelYDimension|exif:ColorSpace|photoshop:ICCProfile|xmp:Thumbnails)\b"
)
STALE_XMP = re.compile(
    rb"<(" + STALE_XMP + rb").*?</\1>|\s" + STALE_XMP + rb"\s*=\s*([\"']).*?\2", re.DOTALL
)


class PhotoError(UserError):
    """A photo that cannot be read or written, and why."""


def read_photo(path):
    """The photo as upright 8-bit sRGB, mode "RGB"; .info holds its exif and xmp (bytes) and dpi.

    16-bit pictures are divided by 257, and transparency lies on white. Of several pages or frames,
    the first is used, with a warning. Raises a one-line PhotoError for what cannot be read
    correctly.
    """
    if not Path(path).is_file():                    # a pipe would block forever
        raise PhotoError(f"{path}: no such file")
    return _read(path, path)


def check_photo(content):
    """Return the bytes of a file if they are a complete photo. Raises PhotoError if not."""
    _read(io.BytesIO(content), "download")
    return content


def write_photo(image, path, like=None):
    """Write `image`, which is sRGB, with the EXIF, XMP and DPI of the photo `like`.

    The extension decides the format: JPEG at quality 95 without chroma subsampling, the others
    lossless. The file appears whole or not at all. Raises PhotoError.
    """
    options = {"exif": b"", "xmp": b"", "icc_profile": _srgb_profile()}
    options |= like.info if like else {}
    options |= WRITABLE[path.suffix.lower()]
    match options["format"]:
        case "JPEG":
            if max(image.size) > MAX_JPEG_SIDE:
                raise PhotoError(f"{path}: a JPEG has at most {MAX_JPEG_SIDE} pixels a side")
            for kind, most in MAX_IN_JPEG.items():
                if len(options[kind]) > most:
                    warn(path, f"its {kind.upper()} is too long for a JPEG, and left out")
                    options[kind] = b""
        case "PNG" if options["xmp"]:
            options["pnginfo"] = PngImagePlugin.PngInfo()
            options["pnginfo"].add_itxt("XML:com.adobe.xmp", options["xmp"].decode(errors="ignore"))
        case "TIFF":
            exif = Image.Exif()
            exif.load(options["exif"])
            exif[TAG.XMLPacket] = options["xmp"]
            options["exif"] = exif
    try:
        with whole_file(path) as file:
            image.save(file, **options)
    except Exception as error:          # a full disk, a side too long for the format
        raise PhotoError(f"{path}: cannot be written: {error}")


def shrink(photo, size):
    """The whole photo squashed to (width, height), in training a square: uint8 (3, H, W)."""
    return pil_to_tensor(photo.resize(size, Image.Resampling.LANCZOS, reducing_gap=3))


def content_box(photo):
    """What the plain borders of a photo enclose: [left, top, right, bottom] in pixels.

    Prints have white borders, scans black ones. A border has the same gray on two opposite sides,
    so a plain sky is none. Without borders, the box is the whole photo.
    """
    factor = max(1, max(photo.size) // 1000)                    # a smaller picture shows as much
    gray = np.asarray(photo.convert("L").reduce(factor), np.float32)
    top, bottom = _content(gray)
    left, right = _content(gray[top:bottom].T)
    box = (left, top, right, bottom)
    return [min(factor * edge, side) for edge, side in zip(box, photo.size * 2)]


def _content(lines):
    """The range of lines, (N, pixels), without a border at both ends."""
    border = lines[[0, -1]].mean()
    busy = np.flatnonzero(np.square(lines - border).mean(axis=1) > BORDER_NOISE**2).tolist()
    if busy and 0 < busy[0] and busy[-1] < len(lines) - 1:
        return busy[0], busy[-1] + 1
    return 0, len(lines)


def warn(name, message):
    print_line(f"warning: {name}: {message}")


def _read(file, name):
    try:
        with Image.open(file, formats=READABLE) as image:
            _go_to_first_page(image, name)
            image.load()
            return _upright_srgb(image, name)
    except UnidentifiedImageError:
        kind = "kind of TIFF" if ".tif" in str(name).lower() else "format"
        raise PhotoError(f"{name}: damaged, or of a {kind} that cannot be read")
    except Exception as error:          # damaged files raise nearly anything in Pillow
        reason = str(error).strip() or type(error).__name__
        raise PhotoError(f"{name}: {reason}")


def _go_to_first_page(image, name):
    if image.format == "TIFF":
        pages = _full_pages(image)
        image.seek(pages[0])
        _check_tiff(image)
    else:
        pages = range(getattr(image, "n_frames", 1))
    # The other pictures in a phone's MPO are previews and depth maps, which nobody misses.
    if len(pages) > 1 and image.format != "MPO":
        warn(name, f"only the first of its {len(pages)} pages or frames is used")


def _full_pages(image):
    """The indices of a TIFF's pages, without thumbnails and masks."""
    tags = copy(image.tag_v2)
    kinds = {}                                      # by offset: Pillow reads no unknown kinds
    while tags.offset not in kinds:
        kinds[tags.offset] = tags.get(TAG.NewSubfileType, 0)
        image.fp.seek(tags.next or tags.offset)
        tags.load(image.fp)
    return [page for page, kind in enumerate(kinds.values()) if not kind & 0b101] or [0]


def _check_tiff(image):
    """Refuse the kinds of TIFF that Pillow reads wrongly, as it refuses others."""
    tags = image.tag_v2
    bits = tags.get(TAG.BitsPerSample)
    if (
        image.mode in ("I", "La", "F")                  # 32 bits; premultiplied gray; float
        or bits == (12,)
        or tags.get(TAG.SampleFormat) == (2,)           # signed
        or tags.get(TAG.PlanarConfiguration) == 2 and bits != (8, 8, 8)     # planes
        or max(tags.get(TAG.ColorMap, [256])) < 256     # a palette of 8 bits instead of 16
    ):
        raise UnidentifiedImageError


def _upright_srgb(image, name):
    icc = image.info.get("icc_profile")
    dpi = [float(value) for value in image.info.get("dpi", [1])]
    xmp = STALE_XMP.sub(b"", image.info.get("xmp", b""))
    info = {"exif": _turn_upright(image, name), "xmp": xmp}
    if all(1 < value < 65535 for value in dpi):     # 1 is Pillow's for none
        info["dpi"] = dpi
    if image.mode == "F":
        raise ValueError("floating-point pictures cannot be read")
    if image.mode.startswith("I"):
        image = _to_8_bits(image)
    mode = {"1": "L", "L": "L", "LA": "L", "CMYK": "CMYK"}.get(image.mode, "RGB")
    flat = image.convert(mode)
    if image.has_transparency_data:
        white = Image.new(mode, flat.size, "white")
        flat = Image.composite(flat, white, image.convert("RGBA").getchannel("A"))
    if icc:
        flat = _to_srgb(flat, icc, name)
    photo = flat.convert("RGB")
    photo.info = info
    return photo


def _turn_upright(image, name):
    """Turn the image in place as its EXIF says, and return the EXIF that is still true."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
        exif = image.getexif()
        for tag in list(exif):
            if ExifTags.TAGS.get(tag) not in DESCRIPTIVE:
                del exif[tag]
        camera = exif.get_ifd(TAG.ExifOffset) if TAG.ExifOffset in exif else {}
        for stale in STALE:
            camera.pop(TAG[stale], None)
        return exif.tobytes() if len(exif) else b""
    except Exception:
        warn(name, "its EXIF is damaged, and left out")
        return b""


def _to_8_bits(image):
    """16-bit gray as 8 bits. Pillow's own conversion would clip it at 255."""
    levels = np.uint8(np.asarray(image) / 257 + 0.5)
    if image.format == "TIFF" and not image.tag_v2.get(TAG.PhotometricInterpretation):
        levels = 255 - levels                       # white is zero
    return Image.fromarray(levels)


def _to_srgb(flat, icc, name):
    srgb = ImageCms.createProfile("sRGB")
    try:
        return ImageCms.profileToProfile(flat, io.BytesIO(icc), srgb, outputMode="RGB")
    except Exception as error:
        warn(name, f"its color profile is ignored: {error}")
        return flat


def _srgb_profile():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile[:24] + bytes(12) + profile[36:]      # undated: the same photo, the same file
