"""One photo file in, one photo file out: every format, orientation and color profile."""
import io
import re
from copy import copy
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, PngImagePlugin, UnidentifiedImageError
from torchvision.transforms.functional import pil_to_tensor

from pix2pix.files import whole_file
from pix2pix.metadata import save_options, turn_upright
from pix2pix.terminal import UserError, warn

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
    ".tiff": TIFF,
    ".bmp": {"format": "BMP"},
}
MAX_JPEG_SIDE = 65500                               # pixels, by libjpeg
PNG_START = b"\x89PNG"
PNG_CHUNKS = [b"IHDR", b"PLTE", b"tRNS", b"iCCP", b"IDAT", b"IEND"]
MAX_PNG_TEXT = 2**26                                # bytes: Pillow's own limit would cost photos
JPEG_START = b"\xff\xd8"
JPEG_END = b"\xff\xd9"
# Pixels for each of the eight segments that may be next. libjpeg itself makes up zeros.
SEGMENTS = [b"\xaa" * 64 + bytes([0xFF, 0xD0 + number]) for number in range(8)]
JPEG_FILLERS = [b"", b"".join(SEGMENTS), b"".join(SEGMENTS[4:])]
BORDER_NOISE = 6                                    # root mean square, in levels of 255
MAX_SPECK = 40                                      # levels: specks on 2 % of a line are no content

TAG = ExifTags.Base


class PhotoError(UserError):
    """A photo that cannot be read or written, and why."""


def read_photo(path):
    """The photo as upright 8-bit sRGB, mode "RGB"; .info holds its metadata (see metadata.py).

    16-bit values are divided by 257, and floating-point ones multiplied by 255. Transparency lies
    on white. Of several pages or frames, the first is used. Both are warned of, and so is a JPEG
    without its last bytes. Raises a one-line PhotoError for what cannot be read correctly.
    """
    if not Path(path).is_file():                    # a pipe would block forever
        raise PhotoError(f"{path}: no such file")
    try:
        file = open(path, "rb")
    except OSError as error:
        raise PhotoError(f"{path}: {error.strerror}")
    with file:
        try:
            return _read(file, path)
        except PhotoError:
            photo = _read_mended(file, path)
            if photo is None:
                raise
            return photo


def check_photo(content):
    """Return the bytes of a file if they are a complete photo. Raises PhotoError if not."""
    _read(io.BytesIO(content), "download")
    return content


def write_photo(image, path, like=None):
    """Write `image`, which is sRGB, with the metadata of the photo `like`.

    The extension decides the format: JPEG at quality 95 without chroma subsampling, the others
    lossless. Warns of metadata that the format does not hold. The file appears whole or not at
    all. Raises PhotoError.
    """
    options = WRITABLE[path.suffix.lower()]
    if options["format"] == "JPEG" and max(image.size) > MAX_JPEG_SIDE:
        raise PhotoError(f"{path}: a JPEG has at most {MAX_JPEG_SIDE} pixels a side")
    try:
        metadata = save_options(like.info if like else {}, options["format"], path)
        with whole_file(path) as file:
            image.save(file, icc_profile=_srgb_profile(), **metadata, **options)
    except Exception as error:          # a full disk, a side too long for the format
        raise PhotoError(f"{path}: cannot be written: {error}") from error


def shrink(photo, size):
    """The whole photo squashed to (width, height), in training a square: uint8 (3, H, W)."""
    return pil_to_tensor(photo.resize(size, Image.Resampling.LANCZOS, reducing_gap=3))


def content_box(photo):
    """What the plain borders of a photo enclose: [left, top, right, bottom] in pixels.

    Prints have white borders, scans black ones, and framed prints several, one in the other. A
    border has the same gray on two opposite sides, so a plain sky is none. Without borders, the
    box is the whole photo.
    """
    factor = max(1, max(photo.size) // 1000)                    # a smaller picture shows as much
    gray = np.asarray(photo.convert("L").reduce(factor), np.float32)
    height, width = gray.shape
    step = max(1, max(height, width) // 100)
    box = (0, 0, width, height)
    edge = 0
    while edge <= 3 * step:         # between two borders, pixels are blurred, and perhaps askew
        inner = _trim(gray, box, edge)
        if inner is None:
            edge += step
        else:
            box = inner
            edge = 0
    left, top, right, bottom = (factor * side for side in box)
    return [left, top, min(right, photo.width), min(bottom, photo.height)]


def _trim(gray, box, edge):
    """What a border encloses that starts `edge` pixels inside of the box; None without one."""
    left, top, right, bottom = box
    left += edge
    top += edge
    right -= edge
    bottom -= edge
    if left >= right or top >= bottom:
        return None
    above, below = _border(gray[top:bottom, left:right])
    top += above
    bottom -= below
    before, after = _border(gray[top:bottom, left:right].T)
    if above == before == 0:
        return None
    return left + before, top, right - after, bottom


def _border(lines):
    """How many of the lines, (N, pixels), are a border at the start and at the end."""
    shade = np.median(lines[[0, -1]], axis=1).mean()
    difference = np.minimum(np.abs(lines - shade), MAX_SPECK)
    busy = np.flatnonzero(np.square(difference).mean(axis=1) > BORDER_NOISE**2).tolist()
    if not busy:                                    # all is blank
        return 0, 0
    start = busy[0]
    end = len(lines) - 1 - busy[-1]
    return (start, end) if start and end else (0, 0)


def _read_mended(file, name):
    """The photo in a JPEG that lacks only its end, or in a PNG with damaged text, with a warning.

    None if more is wrong.
    """
    file.seek(0)
    start = file.read(4)
    file.seek(0)
    try:
        if start.startswith(JPEG_START):
            content = _complete_jpeg(file.read())
            warning = "its last bytes are missing"
        elif start == PNG_START:
            content = _bare_png(file.read())
            warning = "its metadata is damaged, and left out"
        else:
            return None
        photo = _read(io.BytesIO(content), name)
    except Exception:
        return None
    warn(name, warning)
    return photo


def _complete_jpeg(content):
    """The file with its end. Raises ValueError if pixels are missing, too."""
    content = content.rstrip(b"\xff")               # perhaps half of a marker
    # Pixels that are missing come from whatever follows instead.
    versions = {_jpeg_pixels(content + filler + JPEG_END) for filler in JPEG_FILLERS}
    if len(versions) > 1:
        raise ValueError("pixels are missing")
    return content + JPEG_END


def _bare_png(content):
    """The file without the chunks that do not matter for its pixels and their color."""
    kept = [content[:8]]
    place = 8
    while place < len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        end = place + 12 + length
        if content[place + 4 : place + 8] in PNG_CHUNKS:
            kept.append(content[place:end])
        place = end
    return b"".join(kept)


def _jpeg_pixels(content):
    return Image.open(io.BytesIO(content), formats=["JPEG"]).tobytes()


def _read(file, name):
    """The photo in an open file. Given a path instead, Pillow would scramble some turned TIFFs."""
    PngImagePlugin.MAX_TEXT_CHUNK = MAX_PNG_TEXT
    try:
        with Image.open(file, formats=READABLE) as image:
            _go_to_first_page(image, name)
            orientation = 1
            if image.format == "TIFF":              # which turns when it is loaded
                orientation = image.tag_v2.get(TAG.Orientation, 1)
            image.load()
            info = turn_upright(image, orientation, file, name)
            photo = _srgb(image, name)
            photo.info = info
            return photo
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
        if not isinstance(image.info.get("xmp", b""), bytes):
            warn(name, "its XMP is damaged, and left out")
            del image.info["xmp"]                   # or loading the image would fail
    else:
        pages = range(getattr(image, "n_frames", 1))
        if image.format == "PNG" and "transparency" in image.info:
            _scale_transparent_color(image)
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
        image.mode in ("I", "La")                       # 32 bits; premultiplied gray
        or image.mode == "F" and tags.prefix == b"MM" and tags.get(TAG.Compression, 1) != 1
        or image.mode == "YCbCr" and tags.get(TAG.YCbCrSubSampling) != (1, 1)
        or bits == (12,)
        or tags.get(TAG.SampleFormat) == (2,)           # signed
        or tags.get(TAG.PlanarConfiguration) == 2 and bits != (8, 8, 8)     # planes
        or max(tags.get(TAG.ColorMap, [256])) < 256     # a palette of 8 bits instead of 16
        or _holds_a_larger_picture(image)               # a raw file
    ):
        raise UnidentifiedImageError


def _holds_a_larger_picture(image):
    """Whether a TIFF's page is a thumbnail of a picture that Pillow passes over."""
    tags = copy(image.tag_v2)
    for offset in image.tag_v2.get(TAG.SubIFDs, ()):
        image.fp.seek(offset)
        tags.load(image.fp)
        width = tags.get(TAG.ImageWidth, 0)
        height = tags.get(TAG.ImageLength, 0)
        if width * height > image.width * image.height:
            return True
    return False


def _scale_transparent_color(image):
    """Scale a PNG's transparent gray level to 8 bits, as Pillow does with the pixels only."""
    raw_mode = image.tile[0].args
    if raw_mode == "RGB;16B":
        raise ValueError("16-bit RGB with a transparent color cannot be read")
    if raw_mode in ("L;2", "L;4"):
        image.info["transparency"] *= 85 if raw_mode == "L;2" else 17


def _srgb(image, name):
    info = image.info
    alpha = _alpha(image, name)
    if image.mode == "F" or image.mode.startswith("I"):
        image = _to_8_bits(image)
    mode = {"1": "L", "L": "L", "LA": "L", "CMYK": "CMYK"}.get(image.mode, "RGB")
    flat = image.convert(mode)
    if alpha:
        flat = Image.composite(flat, Image.new(mode, flat.size, "white"), alpha)
    if "icc_profile" in info:                       # None if it is damaged
        flat = _to_srgb(flat, info["icc_profile"], name)
    return flat.convert("RGB")


def _alpha(image, name):
    """How opaque each pixel is, mode "L", or None if the picture is to be taken as opaque."""
    if not image.has_transparency_data:
        return None
    if image.mode.startswith("I"):                  # has a transparent gray level of 16 bits
        is_opaque = np.asarray(image) != image.info["transparency"]
        alpha = Image.fromarray(np.uint8(255 * is_opaque))
    else:
        alpha = image.convert("RGBA").getchannel("A")
    least, most = alpha.getextrema()
    if least == 255:
        return None
    if most == 0:                                   # many programs mean nothing by it
        warn(name, "its alpha is zero everywhere, and ignored")
        return None
    warn(name, "its transparent parts become white")
    return alpha


def _to_8_bits(image):
    """16-bit or floating-point gray as 8 bits. Pillow's own conversion would clip it at 255."""
    values = np.asarray(image)
    if image.mode == "F":
        if not ((values >= 0) & (values <= 1)).all():               # NaN is neither
            raise ValueError("its floating-point values are not all from 0 (black) to 1 (white)")
        values = values * 65535
    levels = np.uint8(values / 257 + 0.5)
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
