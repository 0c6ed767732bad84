"""One photo file in, one photo file out: every format, orientation and color profile."""
import io
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, PngImagePlugin, UnidentifiedImageError
from torchvision.transforms.functional import pil_to_tensor

from pix2pix.files import whole_file
from pix2pix.metadata import directory, save_options, turn_upright
from pix2pix.terminal import UserError, warn

# Pillow may open only these formats. Others are unsafe: its PostScript reader runs a program.
READABLE = "JPEG PNG WEBP TIFF BMP GIF PPM JPEG2000 AVIF".split()
WRITABLE = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
QUALITY = {"JPEG": {"quality": 95, "subsampling": "4:4:4"}, "WEBP": {"lossless": True}}
MAX_JPEG_SIDE = 65500                               # pixels, by libjpeg
JPEG_START = b"\xff\xd8"
JPEG_END = b"\xff\xd9"
PNG_START = b"\x89P"
PNG_CHUNKS = [b"IHDR", b"PLTE", b"tRNS", b"iCCP", b"IDAT", b"IEND"]
SCALED_BY_PILLOW = ["L;2", "L;4", "I;16B", "RGB;16B"]           # PNG: but not their transparency
MAX_PNG_TEXT = 2**26                                # bytes: Pillow's own limit would cost photos
BORDER_NOISE = 14                                   # levels of 255
MAX_SPECKS = 0.02                                   # of a line: dust on a border is no content
INWARD = np.array([1, 1, -1, -1])                   # from left, top, right and bottom

TAG = ExifTags.Base


class PhotoError(UserError):
    """A photo that cannot be read or written, and why."""


def read_photo(path):
    """The photo as upright 8-bit sRGB, mode "RGB"; .info holds its metadata (see metadata.py).

    16-bit values are divided by 257, and floating-point ones multiplied by 255. Transparency lies
    on white. Of several pages or frames, the first is used. Both are warned of, and so is damage
    that costs no pixels: of a JPEG's last bytes, or of a PNG's metadata. Raises a one-line
    PhotoError for what cannot be read correctly.
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
        except PhotoError as error:
            try:
                photo = _read(_mended(file), path)
            except Exception:
                raise error
    warn(path, "damaged, but its pixels are whole; some of its metadata may be missing")
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
    format = WRITABLE[path.suffix.lower()]
    if format == "JPEG" and max(image.size) > MAX_JPEG_SIDE:
        raise PhotoError(f"{path}: a JPEG has at most {MAX_JPEG_SIDE} pixels a side")
    try:
        options = save_options(like.info if like else {}, format, path) | QUALITY.get(format, {})
        with whole_file(path) as file:
            image.save(file, format, icc_profile=_srgb_profile(), **options)
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
    box = np.array([0, 0, width, height])
    edge = 0
    while edge <= 3 * step:         # between two borders, pixels are blurred, and perhaps askew
        inner = box + edge * INWARD
        margins = _margins(gray, inner)
        edge += step
        if margins.any():
            box = inner + margins * INWARD
            edge = 0
    return np.minimum(factor * box, [*photo.size, *photo.size]).tolist()


def _margins(gray, box):
    """How wide the borders in a box are: left, top, right, bottom."""
    left, top, right, bottom = box
    above, below = _border(gray[top:bottom, left:right])
    before, after = _border(gray[top + above : bottom - below, left:right].T)
    return np.array([before, above, after, below])


def _border(lines):
    """How many of the lines, (N, pixels), are a border at the start and at the end."""
    if not lines.size:
        return 0, 0
    shade = np.median(lines[[0, -1]], axis=1).mean()
    is_content = (np.abs(lines - shade) > BORDER_NOISE).mean(axis=1) > MAX_SPECKS
    start = is_content.argmax()                     # 0 if all is blank
    end = is_content[::-1].argmax()
    return (start, end) if start and end else (0, 0)


def _mended(file):
    """A JPEG with its end, or a PNG without its metadata. Raises an error if that is no help."""
    file.seek(0)
    start = file.read(2)
    if start == JPEG_START:
        return _complete_jpeg(start + file.read())
    if start == PNG_START:
        return _bare_png(start + file.read())
    raise ValueError


def _complete_jpeg(content):
    content = content.rstrip(b"\xff")               # perhaps half of a marker
    whole = _jpeg_pixels(content + JPEG_END)
    # Missing pixels would come from what follows: the rest of a segment, and the next by number.
    for number in range(8):
        filler = b"\xaa" * 64 + bytes([0xFF, 0xD0 + number]) + b"\xaa" * 64
        if _jpeg_pixels(content + filler + JPEG_END) != whole:
            raise ValueError("pixels are missing")
    return io.BytesIO(content + JPEG_END)


def _jpeg_pixels(content):
    return Image.open(io.BytesIO(content), formats=["JPEG"]).tobytes()


def _bare_png(content):
    """Without the chunks that do not matter for its pixels and their color."""
    kept = bytearray(content[:8])
    place = 8
    while place < len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        if content[place + 4 : place + 8] in PNG_CHUNKS:
            kept += content[place:end]
        place = end
    return io.BytesIO(kept)


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
        raise PhotoError(f"{name}: damaged, or of a kind that cannot be read")
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
        if "transparency" in image.info and image.tile[0].args in SCALED_BY_PILLOW:
            raise ValueError("a transparent color is read only with 8 bits")
    # The other pictures in a phone's MPO are previews and depth maps, which nobody misses.
    if len(pages) > 1 and image.format != "MPO":
        warn(name, f"only the first of its {len(pages)} pages or frames is used")


def _full_pages(image):
    """The indices of a TIFF's pages, without thumbnails and masks."""
    kinds = {}                                      # by offset: Pillow reads no unknown kinds
    offset = image.tag_v2.offset
    while offset and offset not in kinds:
        tags = directory(image, image.fp, offset)
        kinds[offset] = tags.get(TAG.NewSubfileType, 0)
        offset = tags.next
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
        or _holds_a_wider_picture(image)                # a raw file
    ):
        raise UnidentifiedImageError


def _holds_a_wider_picture(image):
    """Whether a TIFF's page is a thumbnail of a picture that Pillow passes over."""
    places = image.tag_v2.get(TAG.SubIFDs, ())
    widths = [directory(image, image.fp, place).get(TAG.ImageWidth, 0) for place in places]
    return max(widths, default=0) > image.width


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
