"""Any photo that a person owns: read right, written whole."""
import errno
import io
import os
import re
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, ImageFilter, ImageOps, PngImagePlugin, TiffImagePlugin

from pix2pix.folders import find_photos
from pix2pix.photo import PhotoError, check_photo, content_box, read_photo, shrink, write_photo
from tests.helpers import noise, raising

RGB = noise(61, 47)
GRAY = noise(61, 47, channels=1)


def levels(image):
    return np.asarray(image).astype(int)


def difference(path, expected):
    photo = read_photo(path)
    assert photo.mode == "RGB"
    expected = np.asarray(expected).astype(int)
    if expected.ndim == 2:
        expected = np.repeat(expected[..., None], 3, axis=2)
    assert levels(photo).shape == expected.shape
    return np.abs(levels(photo) - expected).max()


@pytest.mark.parametrize(
    "name, mode, options, tolerance",
    [
        ("baseline.jpg", "RGB", {"quality": 98, "subsampling": 0}, 8),
        ("progressive.jpg", "RGB", {"quality": 98, "subsampling": 0, "progressive": True}, 8),
        ("gray.jpg", "L", {"quality": 98}, 6),
        ("rgb.png", "RGB", {}, 0),
        ("gray.png", "L", {}, 0),
        ("lossless.webp", "RGB", {"lossless": True}, 0),
        ("rgb.tif", "RGB", {}, 0),
        ("deflate.tiff", "RGB", {"compression": "tiff_adobe_deflate"}, 0),
        ("gray.tif", "L", {}, 0),
        ("rgb.bmp", "RGB", {}, 0),
        ("gray.gif", "L", {}, 0),
        ("rgb.ppm", "RGB", {}, 0),
    ],
)
def test_plain_pictures(tmp_path, name, mode, options, tolerance):
    pixels = GRAY if mode == "L" else RGB
    Image.fromarray(pixels).save(tmp_path / name, **options)
    assert difference(tmp_path / name, pixels) <= tolerance


def test_bilevel_pictures(tmp_path):
    black_and_white = Image.fromarray(GRAY).point(lambda value: 255 * (value > 128))
    for name in ("one.png", "one.tif", "one.bmp"):
        black_and_white.convert("1").save(tmp_path / name)
        assert difference(tmp_path / name, black_and_white) == 0


ADAM7 = [
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
]  # y, x, steps


def png(pixels, bits, interlaced):
    """The kinds of PNG that Pillow reads but does not write, of so many bits.

    pixels are (H, W) or (H, W, channels).
    """
    height, width, channels = (*pixels.shape, 1)[:3]
    rows = b""
    for y, x, dy, dx in ADAM7 if interlaced else [(0, 0, 1, 1)]:
        for row in pixels[y::dy, x::dx].reshape(len(pixels[y::dy]), -1):
            if len(row):
                samples = (row[:, None] >> np.arange(bits - 1, -1, -1)) & 1     # big-endian bits
                rows += b"\0" + np.packbits(samples.astype(np.uint8)).tobytes()
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    header += bytes([bits, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, interlaced])
    file = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        file += len(data).to_bytes(4, "big") + name + data
        file += zlib.crc32(name + data).to_bytes(4, "big")
    return file


def with_chunk(file, name, content):
    """A PNG with one chunk more, after its header."""
    chunk = len(content).to_bytes(4, "big") + name + content
    chunk += zlib.crc32(name + content).to_bytes(4, "big")
    return file[:33] + chunk + file[33:]


@pytest.mark.parametrize("gamma", [45455, 100000])
def test_the_gamma_of_a_png_is_passed_over(tmp_path, gamma):
    """As most programs do: it is more often wrong than right."""
    file = with_chunk(png(GRAY, 8, False), b"gAMA", gamma.to_bytes(4, "big"))
    (tmp_path / "gamma.png").write_bytes(file)
    assert difference(tmp_path / "gamma.png", GRAY) == 0


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    "bits, channels",
    [(1, 1), (2, 1), (4, 1), (8, 1), (16, 1), (8, 2), (8, 3), (16, 3), (8, 4), (16, 4)],
)
def test_png_of_every_depth_plain_and_interlaced(tmp_path, bits, channels, interlaced):
    pixels = noise(61, 47, channels, top=2**bits, dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(png(pixels, bits, interlaced))
    expected = pixels / (2**bits - 1) * 255
    if channels in (2, 4):
        alpha = expected[..., -1:] / 255
        expected = expected[..., :-1] * alpha + 255 * (1 - alpha)
        expected = expected[..., 0] if channels == 2 else expected
    tolerance = 0 if channels == 1 or (bits, channels) == (8, 3) else 2
    assert difference(tmp_path / "a.png", expected.round()) <= tolerance


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_every_depth(tmp_path, bits):
    picture = Image.fromarray(RGB).quantize(2**bits)
    picture.save(tmp_path / "palette.png", bits=bits)
    assert difference(tmp_path / "palette.png", picture.convert("RGB")) == 0


def test_sixteen_bits_are_divided_by_257(tmp_path):
    pixels = noise(61, 47, channels=1, top=65536, dtype=np.uint16)
    for name in ("deep.png", "deep.tif"):
        Image.fromarray(pixels).save(tmp_path / name)
        assert difference(tmp_path / name, (pixels / 257).round()) == 0


def save_floats(path, values):
    """Write float32 (H, W) as a TIFF, or as the PFM of one channel, which starts at the bottom."""
    if path.suffix == ".tif":
        Image.fromarray(values).save(path)
    else:
        height, width = values.shape
        header = f"Pf\n{width} {height}\n-1.0\n".encode()
        path.write_bytes(header + values[::-1].astype("<f4").tobytes())


@pytest.mark.parametrize("name", ["float.tif", "float.pfm"])
def test_floating_point_pictures_are_black_at_0_and_white_at_1(tmp_path, name):
    save_floats(tmp_path / name, np.float32(GRAY / 255))
    assert difference(tmp_path / name, GRAY) == 0
    save_floats(tmp_path / name, np.float32([[0, 0.5, 1]]))
    assert levels(read_photo(tmp_path / name))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("name", ["float.tif", "float.pfm"])
@pytest.mark.parametrize("value", [-0.1, 1.1, 255, np.inf, np.nan])
def test_floating_point_values_beyond_0_and_1_are_refused(tmp_path, name, value):
    """Nobody knows which of them is white."""
    save_floats(tmp_path / name, np.float32([[0, 1, value]]))
    with pytest.raises(PhotoError, match=f"{name}: its floating-point values are not all from 0"):
        read_photo(tmp_path / name)


@pytest.mark.parametrize(
    "dtype, levels",
    [
        (np.uint16, {0: 0, 257: 1, 32896: 128, 65535: 255}),
    ],
)
def test_constant_deep_pictures_have_their_level(tmp_path, dtype, levels):
    for value, level in levels.items():
        Image.fromarray(np.full((4, 5), value, dtype=dtype)).save(tmp_path / "flat.tif")
        assert difference(tmp_path / "flat.tif", np.full((4, 5), level)) == 0, value


def tiff(*pages, order="<"):
    """A TIFF of pages (tags, data): kinds that Pillow does not write. All values are integers."""
    file = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "L", 8)
    for number, (tags, data) in enumerate(pages, 1):
        tags = {259: [1], 266: [1], 277: [len(tags[258])], 278: tags[257], 284: [1]} | tags
        planes = len(tags[258]) if tags[284] == [2] else 1
        tags[279] = [len(data) // planes] * planes
        tags[273] = [0] * planes
        place = len(file) + 2 + 12 * len(tags) + 4
        start = place + sum(4 * len(values) for values in tags.values() if len(values) > 1)
        tags[273] = [start + plane * len(data) // planes for plane in range(planes)]
        entries = beyond = b""
        for tag, values in sorted(tags.items()):
            content = struct.pack(f"{order}{len(values)}L", *values)
            entries += struct.pack(order + "HHL", tag, 4, len(values))
            if len(values) > 1:
                entries += struct.pack(order + "L", place + len(beyond))
                beyond += content
            else:
                entries += content
        following = start + len(data) if number < len(pages) else 0
        file += struct.pack(order + "H", len(tags)) + entries
        file += struct.pack(order + "L", following) + beyond + data
    return file


def tiff_page(pixels, dtype, bits=None, photometric=1, order="<", planes=False, **other):
    """Pixels (H, W) or (H, W, channels) in [0, 1], stored as `dtype` and as the other tags say."""
    dtype = np.dtype(dtype)
    bits = bits or 8 * dtype.itemsize
    height, width, channels = (*pixels.shape, 1)[:3]
    stored = 1 - pixels if photometric == 0 else pixels
    if dtype.kind != "f":
        stored = (stored * (2 ** (bits - (dtype.kind == "i")) - 1)).round()
    if planes:
        stored = np.moveaxis(stored, -1, 0)
    data = stored.astype(dtype.newbyteorder(order)).tobytes()
    if bits < 8 * dtype.itemsize:
        samples = stored.astype(int).reshape(height, -1, 1) >> np.arange(bits - 1, -1, -1) & 1
        data = np.packbits(samples.reshape(height, -1).astype(np.uint8), axis=1).tobytes()
    tags = {256: [width], 257: [height], 258: [bits] * channels, 262: [photometric]}
    tags |= {284: [1 + planes], 339: ["uif".index(dtype.kind) + 1] * channels}
    return tags | other.get("tags", {}), data


def deflated(page):
    tags, data = page
    planes = len(tags[258]) if tags[284] == [2] else 1
    length = len(data) // planes
    parts = [zlib.compress(data[start : start + length]) for start in range(0, len(data), length)]
    longest = max(map(len, parts))
    return tags | {259: [8]}, b"".join(part.ljust(longest, b"\0") for part in parts)


KINDS = [
    ("u1", 1), ("u1", 2), ("u1", 4), ("u1", 8), ("u2", 12), ("u2", 16), ("u4", 24), ("u4", 32),
    ("u8", 64), ("i1", 8), ("i2", 16), ("i4", 32), ("f2", 16), ("f4", 32), ("f8", 64),
]  # type, bits
SURELY_READ = {("u1", 1), ("u1", 2), ("u1", 4), ("u1", 8), ("u2", 16)}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("is_deflated", [False, True])
@pytest.mark.parametrize("dtype, bits", KINDS)
def test_each_kind_of_tiff_is_read_rightly_or_refused(tmp_path, dtype, bits, is_deflated, order):
    gray = noise(64, 40, channels=1) / 255
    color = noise(64, 40, channels=3) / 255
    alpha = noise(64, 40, channels=1, seed=5) / 255
    layouts = {
        "black is zero": (gray, 1, False, {}),
        "white is zero": (gray, 0, False, {}),
        "gray with alpha": (np.dstack((gray, alpha)), 1, False, {338: [2]}),
        "RGB": (color, 2, False, {}),
        "RGB with alpha": (np.dstack((color, alpha)), 2, False, {338: [2]}),
        "RGB in planes": (color, 2, True, {}),
        "RGB with alpha in planes": (np.dstack((color, alpha)), 2, True, {338: [2]}),
        "gray with alpha in planes": (np.dstack((gray, alpha)), 1, True, {338: [2]}),
        "one plane of gray, white is zero": (gray[..., None], 0, True, {}),
        "CMYK": (np.dstack((1 - color, 0 * alpha)), 5, False, {}),
        "CMYK in planes": (np.dstack((1 - color, 0 * alpha)), 5, True, {}),
        "Lab": (color, 8, False, {}),
    }
    for name, (pixels, photometric, planes, tags) in layouts.items():
        page = tiff_page(pixels, dtype, bits, photometric, order, planes, tags=tags)
        page = deflated(page) if is_deflated else page
        (tmp_path / "kind.tif").write_bytes(tiff(page, order=order))
        truth = color if photometric in (2, 5) else gray
        share = alpha if "alpha" in name else np.ones_like(alpha)
        share = share[..., None] if truth.ndim == 3 else share
        top = 2 ** min(bits, 16) - 1
        truth = (truth * top).round() / top
        truth = 255 * (truth * (share * top).round() / top + 1 - (share * top).round() / top)
        try:
            error = difference(tmp_path / "kind.tif", truth.round())
            assert error <= 2 or name == "Lab" and (dtype, bits) == ("u1", 8), name
        except PhotoError as error:
            assert "kind.tif: damaged, or of a kind that cannot be read" in str(error)
            must = (dtype, bits) in SURELY_READ and name == "black is zero"
            assert not must, name


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("is_deflated", [False, True])
def test_where_white_is_zero_black_stays_black(tmp_path, dtype, is_deflated):
    page = tiff_page(GRAY / 255, dtype, photometric=0)
    (tmp_path / "w.tif").write_bytes(tiff(deflated(page) if is_deflated else page))
    assert difference(tmp_path / "w.tif", GRAY) <= 1


def test_a_tiff_that_says_nothing_of_black_and_white_is_white_at_zero(tmp_path):
    for dtype in ("u1", "u2"):
        tags, data = tiff_page(GRAY / 255, dtype, photometric=0)
        del tags[262]
        (tmp_path / "w.tif").write_bytes(tiff((tags, data)))
        assert difference(tmp_path / "w.tif", GRAY) <= 1


def test_a_compressed_floating_point_tiff_in_big_endian_order_is_refused(tmp_path):
    """Pillow swaps its bytes: a white picture would come out black."""
    page = tiff_page(np.ones((40, 64)), "f4", order=">")
    (tmp_path / "f.tif").write_bytes(tiff(page, order=">"))
    assert difference(tmp_path / "f.tif", np.full((40, 64), 255)) == 0
    (tmp_path / "f.tif").write_bytes(tiff(deflated(page), order=">"))
    with pytest.raises(PhotoError, match="f.tif: damaged, or of a kind"):
        read_photo(tmp_path / "f.tif")


@pytest.mark.parametrize(
    "tags",
    [
        {262: [3], 320: [level % 256 for level in range(768)]},     # a palette of 8 bits, not 16
        {259: [34712]},                                             # JPEG 2000
        {259: [65000]},
    ],
)
def test_odd_kinds_of_tiff_are_refused_by_name(tmp_path, tags):
    page, data = tiff_page(GRAY / 255, "u1", tags=tags)
    (tmp_path / "odd.tif").write_bytes(tiff((page, 3 * data)))
    with pytest.raises(PhotoError, match="odd.tif: damaged, or of a kind that cannot be"):
        read_photo(tmp_path / "odd.tif")


def test_uncompressed_ycbcr_is_refused_if_its_chroma_is_subsampled(tmp_path):
    """Pillow reads that as noise. A TIFF that does not say has subsampling of 2 by 2."""
    ycbcr = np.asarray(Image.fromarray(RGB).convert("YCbCr")) / 255
    for tags in ({}, {530: [2, 2]}, {530: [2, 1]}):
        page = tiff_page(ycbcr, "u1", photometric=6, tags=tags)
        (tmp_path / "y.tif").write_bytes(tiff(page))
        with pytest.raises(PhotoError, match="y.tif: damaged, or of a kind"):
            read_photo(tmp_path / "y.tif")
    page = tiff_page(ycbcr, "u1", photometric=6, tags={530: [1, 1]})
    for file in (tiff(page), tiff(deflated(page))):
        (tmp_path / "y.tif").write_bytes(file)
        assert difference(tmp_path / "y.tif", RGB) <= 3


def with_sub_picture(pixels, sub, path):
    """A TIFF whose first page names another picture as part of it, as a DNG and a NEF do."""
    first, data = tiff_page(pixels / 255, "u1", tags={254: [1], 330: [0]})
    place = len(tiff((first, data)))
    second, sub_data = tiff_page(sub / 255, "u1", tags={254: [0]})
    file = tiff((first | {330: [place]}, data), (second, sub_data))
    end = 8 + 2 + 12 * (len(first) + 6)                         # of the tags; tiff() adds six
    path.write_bytes(file[:end] + bytes(4) + file[end + 4 :])   # where no second page follows


def test_a_tiff_that_holds_a_larger_picture_than_its_page_is_refused(tmp_path):
    """It is a raw file, and the page its thumbnail."""
    path = tmp_path / "raw.tif"
    with_sub_picture(GRAY[::4, ::4], GRAY, path)
    with pytest.raises(PhotoError, match="raw.tif: damaged, or of a kind"):
        read_photo(path)
    with_sub_picture(GRAY, GRAY[::4, ::4], path)
    assert difference(path, GRAY) == 0, "which has a thumbnail"


@pytest.mark.filterwarnings("ignore:::PIL")
def test_a_tiff_with_a_wrong_place_of_another_picture_is_read(tmp_path):
    for place in (0, 5, 300, 2**32 - 1):
        page = tiff_page(GRAY / 255, "u1", tags={330: [place]})
        (tmp_path / "p.tif").write_bytes(tiff(page))
        assert difference(tmp_path / "p.tif", GRAY) == 0, place


def test_planes_of_eight_bits_are_read(tmp_path):
    (tmp_path / "p.tif").write_bytes(tiff(tiff_page(RGB / 255, "u1", None, 2, planes=True)))
    assert difference(tmp_path / "p.tif", RGB) == 0


THUMBNAIL, PAGE, MASK, OTHER = ({254: [kind]} for kind in (1, 2, 4, 0))


def small_and_large(*kinds):
    """A TIFF: thumbnails are gray and small, masks of a kind that Pillow cannot read."""
    pages = []
    for number, tags in enumerate(kinds):
        photometric = 4 if tags == MASK else 1
        pixels = (GRAY[::4, ::4] if tags == THUMBNAIL else GRAY) / 255 if number < 2 else GRAY / 510
        pages.append(tiff_page(pixels, "u1", photometric=photometric, tags=tags))
    return tiff(*pages)


@pytest.mark.parametrize(
    "kinds, count",
    [
        ([THUMBNAIL, OTHER], 1),
        ([OTHER, THUMBNAIL, MASK], 1),
        ([THUMBNAIL, OTHER, PAGE, PAGE, MASK], 3),
        ([PAGE, THUMBNAIL, PAGE], 2),
    ],
)
def test_the_first_full_page_of_a_tiff_is_read(tmp_path, capsys, kinds, count):
    path = tmp_path / "pages.tif"
    path.write_bytes(small_and_large(*kinds))
    assert difference(path, GRAY) == 0
    warning = f"warning: {path}: only the first of its {count} pages or frames is used"
    assert capsys.readouterr().err.splitlines() == [warning][: count - 1]


def test_a_tiff_of_nothing_but_a_thumbnail_is_read(tmp_path, capsys):
    (tmp_path / "t.tif").write_bytes(small_and_large(THUMBNAIL))
    assert difference(tmp_path / "t.tif", GRAY[::4, ::4]) == 0
    assert capsys.readouterr().err == ""


def test_a_second_page_of_an_unreadable_kind_does_not_cost_the_first(tmp_path, capsys):
    pages = [tiff_page(GRAY / 255, dtype) for dtype in ("u1", "f8")]
    (tmp_path / "p.tif").write_bytes(tiff(*pages))
    assert difference(tmp_path / "p.tif", GRAY) == 0
    assert "first of its 2 pages" in capsys.readouterr().err


def test_a_second_page_does_not_lend_its_resolution_to_the_first(tmp_path):
    pages = [tiff_page(GRAY / 255, "u1", tags=tags) for tags in ({}, {282: [300], 283: [300]})]
    (tmp_path / "p.tif").write_bytes(tiff(*pages))
    assert "dpi" not in read_photo(tmp_path / "p.tif").info


def test_a_phones_second_picture_is_passed_over_in_silence(tmp_path, capsys):
    picture = Image.fromarray(RGB)
    picture.save(tmp_path / "phone.mpo", save_all=True, append_images=[Image.fromarray(255 - RGB)])
    assert difference(tmp_path / "phone.mpo", RGB) < 90
    assert capsys.readouterr().err == "" and find_photos(tmp_path)[0] == [tmp_path / "phone.mpo"]


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("bits, channels", [(1, 1), (8, 1), (8, 3)])
def test_the_transparent_color_of_a_png_becomes_white(tmp_path, bits, channels, interlaced):
    pixels = noise(61, 47, channels, top=2**16, dtype=np.uint16) >> 16 - bits
    key = pixels[20, 30]
    is_key = (pixels == key).reshape(47, 61, -1).all(axis=-1)
    content = struct.pack(f">{channels}H", *np.atleast_1d(key))
    (tmp_path / "key.png").write_bytes(with_chunk(png(pixels, bits, interlaced), b"tRNS", content))
    expected = (pixels / (2**bits - 1) * 255).round()
    expected[is_key] = 255
    assert difference(tmp_path / "key.png", expected) <= 1


@pytest.mark.parametrize("bits, channels", [(2, 1), (4, 1), (16, 1), (16, 3)])
def test_a_transparent_color_with_other_than_8_bits_is_refused(tmp_path, bits, channels):
    """Pillow scales their pixels to 8 bits, and not the color."""
    pixels = noise(61, 47, channels) >> max(0, 8 - bits)
    content = with_chunk(png(pixels, bits, False), b"tRNS", bytes(2 * channels))
    (tmp_path / "key.png").write_bytes(content)
    with pytest.raises(PhotoError, match="key.png: a transparent color is read only with 8 bits"):
        read_photo(tmp_path / "key.png")


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_transparent_entry_of_a_palette_becomes_white(tmp_path, bits):
    picture = Image.fromarray(RGB).quantize(2**bits)
    expected = np.asarray(picture.convert("RGB")).copy()
    expected[np.asarray(picture) == 1] = 255
    picture.save(tmp_path / "key.png", bits=bits, transparency=1)
    assert difference(tmp_path / "key.png", expected) == 0


def test_flattened_transparency_is_warned_of(tmp_path, capsys):
    alpha = np.full_like(GRAY, 255)
    path = tmp_path / "alpha.png"
    Image.fromarray(np.dstack((RGB, alpha))).save(path)
    assert difference(path, RGB) == 0 and capsys.readouterr().err == "", "nothing is transparent"
    alpha[5, 5] = 254
    Image.fromarray(np.dstack((RGB, alpha))).save(path)
    assert difference(path, RGB) <= 1
    warning = f"warning: {path}: its transparent parts become white\n"
    assert capsys.readouterr().err == warning


def bmp_with_alpha(rgb, alpha):
    """A BMP of 32 bits with a header of version 4, which says where alpha is."""
    height, width = alpha.shape
    header = struct.pack("<LllHHLLllLL", 108, width, height, 1, 32, 3, 0, 0, 0, 0, 0)
    header += struct.pack("<LLLL4s", 0xFF0000, 0xFF00, 0xFF, 0xFF000000, b"BGRs") + bytes(48)
    pixels = np.dstack((rgb[..., ::-1], alpha))[::-1].tobytes()
    return struct.pack("<2sLLL", b"BM", 122 + len(pixels), 0, 122) + header + pixels


@pytest.mark.parametrize("extension", [".bmp", ".tif", ".png", ".gif"])
def test_an_alpha_that_is_zero_everywhere_is_ignored_with_a_warning(tmp_path, capsys, extension):
    """Many programs that write one mean nothing by it."""
    path = tmp_path / f"clear{extension}"
    nothing = np.zeros_like(GRAY)
    picture = RGB
    if extension == ".bmp":
        path.write_bytes(bmp_with_alpha(RGB, nothing))
    elif extension == ".gif":
        picture = np.full_like(RGB, 80)
        Image.fromarray(picture).quantize(2).save(path, transparency=0)
    else:
        Image.fromarray(np.dstack((RGB, nothing))).save(path)
    assert difference(path, picture) <= 1
    warning = f"warning: {path}: its alpha is zero everywhere, and ignored\n"
    assert capsys.readouterr().err == warning


def test_transparency_lies_on_white(tmp_path):
    alpha = noise(61, 47, channels=1, seed=5)
    share = alpha[..., None] / 255
    for name, image, color in (
        ("rgba.png", np.dstack((RGB, alpha)), RGB),
        ("la.png", np.dstack((GRAY, alpha)), GRAY[..., None].repeat(3, axis=2)),
        ("rgba.webp", np.dstack((RGB, alpha)), RGB),
        ("rgba.tif", np.dstack((RGB, alpha)), RGB),
    ):
        options = {"lossless": True, "exact": True} if name.endswith("webp") else {}
        Image.fromarray(image).save(tmp_path / name, **options)
        expected = (color * share + 255 * (1 - share)).round()
        assert difference(tmp_path / name, expected) <= 1, name
    palette = Image.fromarray(RGB).quantize(16)
    palette.save(tmp_path / "palette.png", transparency=3)
    expected = np.asarray(palette.convert("RGB")).copy()
    expected[np.asarray(palette) == 3] = 255
    assert difference(tmp_path / "palette.png", expected) == 0
    gray = Image.fromarray(GRAY)
    gray.save(tmp_path / "key.png", transparency=int(GRAY[0, 0]))
    assert difference(tmp_path / "key.png", np.where(GRAY == GRAY[0, 0], 255, GRAY)) == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_stand_upright(tmp_path, orientation):
    upright = np.asarray(Image.fromarray(noise(64, 40)).resize((64, 40)))
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("o.png", "o.webp", "o.jpg", "o.tif"):
        image = Image.fromarray(np.ascontiguousarray(stored[orientation]))
        image.save(tmp_path / name, exif=exif, lossless=True, quality=100, subsampling=0)
        assert difference(tmp_path / name, upright) <= (6 if name == "o.jpg" else 0), name
    photo = read_photo(tmp_path / "o.png")
    write_photo(photo, tmp_path / "again.png", like=photo)
    assert difference(tmp_path / "again.png", upright) == 0


STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # orientation -> how an upright picture is turned when it is stored


@pytest.mark.parametrize("compression", ["raw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "I;16", "RGB", "RGBA", "CMYK"])
def test_a_tiff_of_every_mode_stands_upright(tmp_path, mode, compression):
    """Pillow scrambles some of those without compression if it opens the path itself."""
    white = Image.new("RGBA", (61, 47), "white")
    if mode == "I;16":
        source = Image.fromarray(GRAY.astype(np.uint16) * 257)
        expected = Image.fromarray(GRAY)
    else:
        source = Image.fromarray(RGB).convert(mode)
        if mode in ("LA", "RGBA"):
            source.putalpha(Image.fromarray(GRAY))
        expected = Image.alpha_composite(white, source.convert("RGBA")).convert("RGB")
    for orientation, turn in STORED.items():
        stored = source.transpose(turn) if turn is not None else source
        stored.save(tmp_path / "o.tif", tiffinfo={274: orientation}, compression=compression)
        assert difference(tmp_path / "o.tif", expected) <= 1, orientation


def srgb_profile():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def test_an_srgb_profile_changes_nothing_much(tmp_path):
    for name in ("p.png", "p.tif"):
        Image.fromarray(RGB).save(tmp_path / name, icc_profile=srgb_profile())
        assert difference(tmp_path / name, RGB) <= 1


def test_a_profile_is_converted_to_srgb(tmp_path):
    swapped = bytearray(srgb_profile())
    red, green = swapped.find(b"rXYZ"), swapped.find(b"gXYZ")
    swapped[red : red + 4] = b"gXYZ"        # a device whose red is green
    swapped[green : green + 4] = b"rXYZ"
    Image.fromarray(RGB).save(tmp_path / "swapped.png", icc_profile=bytes(swapped))
    assert difference(tmp_path / "swapped.png", RGB[..., [1, 0, 2]]) <= 1


def gray_profile():
    """Of a gray device whose levels are linear in light, as small as ICC.1:2001 allows."""
    d50 = b"".join(round(65536 * number).to_bytes(4, "big") for number in (0.9642, 1, 0.8249))
    tags = {b"wtpt": b"XYZ \0\0\0\0" + d50, b"kTRC": b"curv" + bytes(8) + bytes(4)}
    table, data = len(tags).to_bytes(4, "big"), b""
    for name, content in tags.items():
        place = 132 + 12 * len(tags) + len(data)
        table += name + place.to_bytes(4, "big") + len(content).to_bytes(4, "big")
        data += content
    header = bytearray(128)
    header[:4] = (128 + len(table) + len(data)).to_bytes(4, "big")
    header[8:24] = b"\x02\x10\0\0mntrGRAYXYZ "
    header[36:40] = b"acsp"
    header[68:80] = d50
    return bytes(header) + table + data


@pytest.mark.parametrize("name, mode", [("l.png", "L"), ("la.png", "LA"), ("l.tif", "L")])
def test_a_gray_profile_is_converted_to_srgb(tmp_path, capsys, name, mode):
    """A scan that has one is as light as it was meant: half of the light is 188, not 128."""
    Image.new("L", (5, 4), 128).convert(mode).save(tmp_path / name, icc_profile=gray_profile())
    assert difference(tmp_path / name, np.full((4, 5), 188)) <= 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "profile, mode", [(b"broken", "RGB"), (srgb_profile(), "L"), (srgb_profile(), "CMYK")]
)
def test_a_profile_that_does_not_fit_is_ignored_with_a_warning(tmp_path, capsys, profile, mode):
    image = Image.fromarray(RGB).convert(mode)
    image.save(tmp_path / "p.tif", icc_profile=profile)
    assert difference(tmp_path / "p.tif", image.convert("RGB")) == 0
    warning = capsys.readouterr().err
    assert warning.startswith("warning:") and "profile" in warning and warning.count("\n") == 1


def test_cmyk(tmp_path):
    image = Image.fromarray(RGB).convert("CMYK")
    image.save(tmp_path / "c.tif")
    assert difference(tmp_path / "c.tif", image.convert("RGB")) == 0
    image.save(tmp_path / "c.jpg", quality=98, subsampling=0)
    assert difference(tmp_path / "c.jpg", image.convert("RGB")) <= 10


def test_the_first_of_several_pages_and_frames(tmp_path, capsys):
    first = Image.fromarray(RGB).quantize(256)
    second = Image.fromarray(255 - RGB).quantize(256)
    for name in ("pages.tif", "frames.gif", "frames.webp", "frames.png"):
        first.save(tmp_path / name, save_all=True, append_images=[second], lossless=True)
        assert difference(tmp_path / name, first.convert("RGB")) <= 1, name
        warning = f"warning: {tmp_path}/{name}: only the first of its 2 pages or frames is used\n"
        assert capsys.readouterr().err == warning


@pytest.mark.parametrize("extension", [".gif", ".png", ".webp"])
def test_the_first_of_several_frames_may_be_transparent(tmp_path, extension):
    gray = np.full((47, 61, 4), 80, np.uint8)
    gray[..., 3] = 0
    gray[0, 0, 3] = 255
    frames = [Image.fromarray(gray), Image.fromarray(255 - gray)]
    path = tmp_path / f"frames{extension}"
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    expected = np.full((47, 61), 255)
    expected[0, 0] = 80
    assert Image.open(path).n_frames == 2 and difference(path, expected) == 0


def test_sides_of_one_pixel_and_uniform_photos(tmp_path):
    for size in ((1, 1), (3, 2000), (2000, 3)):
        for color in ("black", "white"):
            Image.new("RGB", size, color).save(tmp_path / "u.png")
            photo = read_photo(tmp_path / "u.png")
            assert photo.size == size and shrink(photo, (64, 64)).shape == (3, 64, 64)


def test_shrinking_takes_the_mean_of_fine_detail():
    """Black and white checks of one pixel become gray."""
    checks = np.indices((96, 96)).sum(axis=0) % 2 == 0
    shrunk = shrink(Image.fromarray(np.uint8(255 * checks)).convert("RGB"), (32, 32))
    assert (shrunk.int() - 128).abs().max() <= 3


def test_shrinking_sharpens_edges():
    """As Lanczos' filter does, and a mean of neighbors does not: it goes beyond both sides."""
    edge = np.repeat([[64], [192]], 48, axis=0).repeat(96, axis=1)
    shrunk = shrink(Image.fromarray(np.uint8(edge)).convert("RGB"), (32, 32))
    assert shrunk.min() < 64 and shrunk.max() > 192


CONTENT = noise(200, 150)


def bordered(shade, margins, grain=0, content=CONTENT):
    """The content in a border of a shade and grain, so wide at left, top, right and bottom."""
    left, top, right, bottom = margins
    height, width = content.shape[:2]
    rng = np.random.default_rng(0)
    shape = (top + height + bottom, left + width + right, 1)
    pixels = shade + rng.integers(-grain, grain + 1, shape).repeat(3, axis=2)
    pixels[top : top + height, left : left + width] = content
    return Image.fromarray(np.uint8(pixels.clip(0, 255)))


@pytest.mark.parametrize("grain", [0, 3])
@pytest.mark.parametrize("margins", [(10, 20, 30, 40), (0, 20, 0, 25), (15, 0, 1, 0), (1, 1, 1, 1)])
@pytest.mark.parametrize("shade", [0, 128, 255])
def test_the_content_is_what_plain_borders_enclose(shade, margins, grain):
    left, top, _, _ = margins
    assert content_box(bordered(shade, margins, grain)) == [left, top, left + 200, top + 150]


MEAN_OF_LAST_LINE = round(levels(Image.fromarray(CONTENT).convert("L"))[-1].mean())


def in_borders(photo, *borders):
    """The photo in borders (width, shade), the innermost first."""
    for width, shade in borders:
        photo = ImageOps.expand(photo, width, (shade, shade, shade))
    return photo


NESTED = {
    "a white line in black": [(12, 0), (3, 255), (9, 0)],
    "a mat in a frame": [(25, 235), (14, 40)],
    "a framed print on a flatbed": [(8, 250), (20, 60), (2, 200), (30, 5)],
}


@pytest.mark.parametrize("borders", NESTED.values(), ids=NESTED)
def test_the_content_is_what_nested_borders_enclose(borders):
    start = sum(width for width, _ in borders)
    box = [start, start, start + 200, start + 150]
    framed = in_borders(Image.fromarray(CONTENT), *borders)
    assert content_box(framed) == box
    blurred = content_box(framed.filter(ImageFilter.GaussianBlur(0.8)))
    assert np.abs(np.subtract(blurred, box)).max() <= 3
    askew = content_box(framed.rotate(0.3, Image.Resampling.BICUBIC))
    assert np.abs(np.subtract(askew, box)).max() <= 4


def test_dust_on_a_border_is_no_content():
    photo = in_borders(Image.fromarray(CONTENT), (30, 250))
    for place in ((100, 0), (0, 90), (40, 12), (255, 60), (120, 205)):
        photo.paste("black", (*place, place[0] + 3, place[1] + 3))
    assert content_box(photo) == [30, 30, 230, 180]


@pytest.mark.parametrize("side", range(4))
@pytest.mark.parametrize("shade", [230, MEAN_OF_LAST_LINE])
def test_a_plain_sky_is_no_border(side, shade):
    """It lies at one side only, whichever, even if the other side is as light on the whole."""
    landscape = CONTENT.copy()
    landscape[:60] = shade
    photo = Image.fromarray(np.rot90(landscape, side).copy())
    assert content_box(photo) == [0, 0, *photo.size]


def test_a_white_sky_above_black_ground_is_no_border():
    landscape = CONTENT.copy()
    landscape[:40] = 255
    landscape[-30:] = 0
    assert content_box(Image.fromarray(landscape)) == [0, 0, 200, 150]


def test_a_sky_inside_a_border_stays_in_the_content():
    landscape = CONTENT.copy()
    landscape[:60] = 200
    assert content_box(bordered(255, (20, 20, 20, 20), content=landscape)) == [20, 20, 220, 170]


@pytest.mark.parametrize("size", [(200, 150), (1, 1), (1, 90), (90, 1)])
@pytest.mark.parametrize("grain", [0, 3])
@pytest.mark.parametrize("shade", [0, 128, 255])
def test_a_blank_picture_is_not_trimmed(size, grain, shade):
    width, height = size
    blank = bordered(shade, (0, 0, width, height), grain, np.full((1, 1, 3), shade))
    assert content_box(blank.crop((0, 0, width, height))) == [0, 0, width, height]


@pytest.mark.parametrize("size", [(2003, 301), (301, 2003)])
def test_the_content_of_a_large_photo_without_borders_ends_where_the_photo_does(size):
    """Borders are looked for in a smaller picture, whose last pixel may reach beyond the photo."""
    assert content_box(Image.fromarray(noise(*size))) == [0, 0, *size]


@pytest.mark.parametrize("margins", [(101, 203, 307, 401), (0, 203, 0, 101)])
def test_the_borders_of_a_large_photo_are_found_to_a_few_pixels(margins):
    content = noise(2600, 1900)
    left, top, _, _ = margins
    expected = np.array([left, top, left + 2600, top + 1900])
    assert np.abs(content_box(bordered(255, margins, 3, content)) - expected).max() <= 3


def png_bomb():
    """A PNG header that promises 30,000 x 30,000 pixels."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = (30000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def jpeg_bytes():
    buffer = io.BytesIO()
    Image.fromarray(noise(300, 200)).save(buffer, "JPEG")
    return buffer.getvalue()


NO_PICTURE = "damaged, or of a kind that cannot be read"


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("empty.jpg", b"", NO_PICTURE),
        ("text.jpg", b"just some text", NO_PICTURE),
        ("page.jpg", b"<!DOCTYPE html><html></html>", NO_PICTURE),
        ("._mac.jpg", b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X", NO_PICTURE),
        ("heic.heic", b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", NO_PICTURE),
        ("script.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", NO_PICTURE),
        ("cut.jpg", jpeg_bytes()[:2000], "truncated"),
        ("bomb.png", png_bomb(), "exceeds limit of 178956970 pixels"),
        ("text.tif", b"just some text", "damaged, or of a kind that cannot be read"),
    ],
)
def test_what_is_not_a_picture_is_one_clear_line(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PhotoError, match=words) as caught:
        read_photo(tmp_path / name)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_a_file_beyond_the_limit_of_pixels_is_refused_with_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    Image.new("L", (21, 21)).save(tmp_path / "large.png")
    with pytest.raises(PhotoError, match="large.png: .*441 pixels.* exceeds limit of 400 pixels"):
        read_photo(tmp_path / "large.png")


def test_the_content_of_a_whole_photo_passes_and_no_other():
    whole = jpeg_bytes()
    assert check_photo(whole) == whole
    for content in (b"", whole[:2000], b"<!DOCTYPE html><html></html>"):
        with pytest.raises(PhotoError):
            check_photo(content)


MENDED = "damaged, but its pixels are whole; some of its metadata may be missing"
ENDS = [
    {},
    {"progressive": True},
    {"subsampling": 0},
    {"restart_marker_rows": 1},
]  # of JPEGs


@pytest.mark.parametrize("options", ENDS)
@pytest.mark.parametrize("missing", [1, 2])
def test_a_jpeg_that_lacks_only_its_end_marker_is_read_with_a_warning(
    tmp_path, capsys, options, missing
):
    path = tmp_path / "end.jpg"
    Image.fromarray(noise(300, 200)).save(path, **options)
    whole = read_photo(path)
    path.write_bytes(path.read_bytes()[:-missing])
    assert (levels(read_photo(path)) == levels(whole)).all()
    assert capsys.readouterr().err == f"warning: {path}: {MENDED}\n"


@pytest.mark.parametrize("options", ENDS)
@pytest.mark.parametrize("missing", [5, 6, 20, 100, 1000])
def test_a_jpeg_that_lacks_lines_is_refused(tmp_path, options, missing):
    path = tmp_path / "cut.jpg"
    Image.fromarray(noise(300, 200)).save(path, **options)
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(PhotoError, match="cut.jpg: .*truncated"):
        read_photo(path)


def test_a_jpeg_that_ends_between_two_of_its_segments_is_refused(tmp_path):
    path = tmp_path / "cut.jpg"
    Image.fromarray(noise(300, 200)).save(path, restart_marker_rows=1)
    whole = path.read_bytes()
    markers = [place for place in range(len(whole)) if re.match(rb"\xff[\xd0-\xd7]", whole[place:])]
    assert len(markers) > 10
    for marker in markers:
        for length in (marker, marker + 1, marker + 2):
            path.write_bytes(whole[:length])
            with pytest.raises(PhotoError, match="cut.jpg: .*truncated"):
                read_photo(path)


def test_a_download_has_to_be_complete_to_the_last_byte():
    with pytest.raises(PhotoError, match="truncated"):
        check_photo(jpeg_bytes()[:-2])


def test_a_file_that_may_not_be_read_is_refused_by_name(tmp_path, monkeypatch):
    (tmp_path / "locked.png").write_bytes(b"")
    monkeypatch.setattr("builtins.open", raising(PermissionError(13, "Permission denied")))
    with pytest.raises(PhotoError, match="locked.png: Permission denied"):
        read_photo(tmp_path / "locked.png")


def test_pipes_devices_folders_and_missing_files_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", "/dev/zero", tmp_path, tmp_path / "missing.jpg"):
        with pytest.raises(PhotoError, match="no such file"):
            read_photo(path)


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp", ".tif", ".gif", ".bmp"])
def test_a_damaged_file_is_read_or_refused_and_never_raises_anything_else(tmp_path, extension):
    path = tmp_path / f"whole{extension}"
    Image.fromarray(noise(90, 70)).save(path, exif=Image.Exif())
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 8):
            damaged[place] = rng.integers(0, 256)
        length = rng.integers(1, len(damaged)) if rng.random() < 0.3 else len(damaged)
        path.write_bytes(damaged[:length])
        try:
            assert read_photo(path).mode == "RGB"
        except PhotoError as error:
            assert "\n" not in str(error)


def exif_with_everything():
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "Grandmother, 1931"
    exif.get_ifd(0x8769)[0x9003] = "1931:05:01 12:00:00"
    exif.get_ifd(0x8825)[1] = "N"
    return exif


HOLDERS = [".jpg", ".png", ".webp", ".tif"]             # formats that hold EXIF and XMP
XMP = """<?xpacket begin='\ufeff'?><x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:Description
 xmlns:tiff='http://ns.adobe.com/tiff/1.0/' tiff:Orientation="6" exif:ColorSpace='65535'
 dc:title="été 1931"><tiff:Orientation>6</tiff:Orientation><exif:PixelXDimension>61
</exif:PixelXDimension></rdf:Description></x:xmpmeta><?xpacket end='w'?>"""


def save_with_metadata(path, exif, xmp):
    options = {"exif": exif.tobytes(), "xmp": xmp}
    if path.suffix == ".png":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "surrogateescape"))
    if path.suffix == ".tif":
        options["exif"] = Image.Exif()
        options["exif"].load(exif.tobytes())
        options["exif"][700] = xmp
    Image.fromarray(RGB).save(path, **options, lossless=True)


@pytest.mark.parametrize("source", HOLDERS)
@pytest.mark.parametrize("target", HOLDERS)
def test_exif_and_xmp_are_kept_with_their_orientation_reset(tmp_path, capsys, source, target):
    path, out = tmp_path / f"in{source}", tmp_path / f"out{target}"
    save_with_metadata(path, exif_with_everything(), XMP.encode())
    photo = read_photo(path)
    write_photo(photo, out, like=photo)
    with Image.open(out) as image:
        exif = image.getexif()
        assert exif[0x010E] == "Grandmother, 1931"
        assert exif.get_ifd(0x8769)[0x9003] == "1931:05:01 12:00:00"
        assert exif.get_ifd(0x8825)[1] == "N" and exif.get(0x0112, 1) == 1 and not exif.get_ifd(1)
        assert image.size == photo.size == (47, 61)
        xmp = image.info["xmp"].decode()
        assert "été 1931" in xmp and "xpacket end" in xmp and "rdf:Description" in xmp
        assert not any(word in xmp for word in ("Orientation", "ColorSpace", "PixelXDimension"))
    assert levels(read_photo(out)).shape == levels(photo).shape
    assert capsys.readouterr().err == ""


def test_a_photo_without_xmp_gets_none(tmp_path):
    for name in ("out.png", "out.tif", "out.jpg", "out.webp"):
        write_photo(Image.fromarray(RGB), tmp_path / name)
        assert "xmp" not in Image.open(tmp_path / name).info, name


def test_exif_whose_camera_tags_are_empty_is_kept(tmp_path, capsys):
    exif = Image.Exif()
    exif[ExifTags.Base.DateTime] = "1931:05:04 03:02:01"
    exif[ExifTags.Base.ExifOffset] = {}
    Image.fromarray(RGB).save(tmp_path / "in.jpg", exif=exif)
    photo = read_photo(tmp_path / "in.jpg")
    write_photo(photo, tmp_path / "out.jpg", like=photo)
    kept = Image.open(tmp_path / "out.jpg").getexif()
    assert kept[ExifTags.Base.DateTime] == "1931:05:04 03:02:01" and not capsys.readouterr().err


@pytest.mark.parametrize("extension", HOLDERS)
def test_damaged_xmp_does_not_cost_the_photo(tmp_path, capsys, extension):
    path = tmp_path / f"in{extension}"
    save_with_metadata(path, Image.Exif(), b"x" * len(XMP))
    path.write_bytes(path.read_bytes().replace(b"x" * len(XMP), b"\xff" * len(XMP)))
    if extension == ".png":                             # whose chunks have checksums
        place = path.read_bytes().index(b"iTXt")
        length = int.from_bytes(path.read_bytes()[place - 4 : place], "big")
        damaged = bytearray(path.read_bytes())
        end = place + 4 + length
        damaged[end : end + 4] = zlib.crc32(damaged[place:end]).to_bytes(4, "big")
        path.write_bytes(damaged)
    photo = read_photo(path)
    write_photo(photo, tmp_path / "out.png", like=photo)
    assert read_photo(tmp_path / "out.png").size == photo.size and capsys.readouterr().err == ""


LONG = "Mormor " * 300_000                                 # 2 MB, of which few stay when compressed


def test_a_megabyte_of_compressed_text_does_not_cost_a_png(tmp_path, capsys):
    text = PngImagePlugin.PngInfo()
    text.add_text("Description", LONG, zip=True)
    text.add_itxt("XML:com.adobe.xmp", LONG, zip=True)
    Image.fromarray(RGB).save(tmp_path / "in.png", pnginfo=text)
    assert difference(tmp_path / "in.png", RGB) == 0
    info = read_photo(tmp_path / "in.png").info
    assert info["xmp"] == LONG.encode() and info["titles"] == {"Description": LONG}
    assert capsys.readouterr().err == ""


def test_a_megabyte_of_color_profile_does_not_cost_a_png(tmp_path, capsys):
    profile = bytearray(gray_profile()) + bytes(2_000_000)
    profile[:4] = len(profile).to_bytes(4, "big")
    Image.new("L", (5, 4), 128).save(tmp_path / "in.png", icc_profile=bytes(profile))
    assert difference(tmp_path / "in.png", np.full((4, 5), 188)) <= 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", [b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"tIME", b"gAMA"])
@pytest.mark.parametrize("is_last", [False, True])
def test_a_chunk_with_a_wrong_checksum_does_not_cost_a_png(tmp_path, capsys, name, is_last):
    path = tmp_path / "in.png"
    Image.new("L", (5, 4), 128).save(path, icc_profile=gray_profile())
    content = path.read_bytes()
    place = len(content) - 12 if is_last else 33            # before the end, or after the header
    chunk = struct.pack(">L4s8sL", 8, name, b"a\0\0\0\0\0\0b", 0)
    path.write_bytes(content[:place] + chunk + content[place:])
    assert difference(path, np.full((4, 5), 188)) <= 1, "its color profile is used"
    warning = f"warning: {path}: {MENDED}\n"
    assert is_last or capsys.readouterr().err == warning


def test_a_png_with_damaged_pixels_is_refused(tmp_path):
    path = tmp_path / "in.png"
    Image.fromarray(RGB).save(path)
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 50] ^= 255
    path.write_bytes(content)
    with pytest.raises(PhotoError, match="in.png: "):
        read_photo(path)


def test_a_damaged_color_profile_is_warned_of(tmp_path, capsys):
    path = tmp_path / "in.png"
    Image.fromarray(RGB).save(path)
    path.write_bytes(with_chunk(path.read_bytes(), b"iCCP", b"name\0\0not compressed"))
    assert difference(path, RGB) == 0
    assert f"{path}: its color profile is ignored: " in capsys.readouterr().err


@pytest.mark.parametrize("length, fits", [(65502, True), (65503, False)])
def test_only_a_jpeg_loses_xmp_that_is_too_long_for_it_with_a_warning(
    tmp_path, capsys, length, fits
):
    photo = Image.fromarray(RGB)
    photo.info = {"xmp": b"x" * length}
    for name in ("out.jpg", "out.png", "out.webp", "out.tif"):
        write_photo(photo, tmp_path / name, like=photo)
        kept = "xmp" in Image.open(tmp_path / name).info
        assert kept == (fits or name != "out.jpg"), name
    warning = f"warning: {tmp_path}/out.jpg: metadata left out: xmp"
    assert capsys.readouterr().err.splitlines() == ([] if fits else [warning])


@pytest.mark.parametrize("extension", HOLDERS)
def test_an_output_says_that_it_is_srgb_and_nothing_else(tmp_path, extension):
    exif = Image.Exif()
    exif[0x013E] = (0.3127, 0.329)                      # WhitePoint
    exif[0x013F] = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
    details = exif.get_ifd(0x8769)
    details |= {0xA001: 65535, 0xA500: 2.2, 0xA002: 9999, 0x9003: "1931:05:01 12:00:00"}
    details[0xA005] = {1: "R03"}                        # Interoperability: Adobe RGB
    Image.fromarray(RGB).save(tmp_path / "in.jpg", exif=exif)
    photo = read_photo(tmp_path / "in.jpg")
    out = tmp_path / f"out{extension}"
    write_photo(photo, out, like=photo)
    with Image.open(out) as image:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        assert "sRGB" in ImageCms.getProfileDescription(profile)
        assert not {0x013E, 0x013F} & set(image.getexif())
        details = image.getexif().get_ifd(0x8769)
        assert details == {0x9003: "1931:05:01 12:00:00"}
    assert difference(out, levels(photo)) <= (16 if extension == ".jpg" else 1)


def test_the_same_photo_becomes_the_same_file_at_any_time(tmp_path):
    photo = Image.fromarray(RGB)
    for name in ("before", "after"):
        for extension in HOLDERS:
            write_photo(photo, tmp_path / f"{name}{extension}")
        time.sleep(1.1)                                 # profiles are dated in seconds
    for extension in HOLDERS:
        before, after = (tmp_path / f"{name}{extension}" for name in ("before", "after"))
        assert before.read_bytes() == after.read_bytes(), extension


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_thumbnail_is_dropped_which_would_still_be_gray(tmp_path, orientation):
    thumbnail = b"\xff\xd8 a small gray picture \xff\xd9"
    exif = b"Exif\0\0MM\0*" + struct.pack(
        ">L" "H" "HHL4s" "HHLHH" "L" "H" "HHLL" "HHLL" "L",
        8,                                              # where the first directory is
        2, 0x010F, 2, 4, b"Box\0", 0x0112, 3, 1, orientation, 0,
        38,                                             # where the second is, the thumbnail's
        2, 0x0201, 4, 1, 68, 0x0202, 4, 1, len(thumbnail),
        0                                               # there is no other
    ) + thumbnail
    Image.fromarray(RGB).save(tmp_path / "in.jpg", exif=exif)
    assert thumbnail in (tmp_path / "in.jpg").read_bytes()
    assert Image.open(tmp_path / "in.jpg").getexif().get_ifd(ExifTags.IFD.IFD1)
    photo = read_photo(tmp_path / "in.jpg")
    write_photo(photo, tmp_path / "out.jpg", like=photo)
    assert photo.info["exif"] and thumbnail not in (tmp_path / "out.jpg").read_bytes()


@pytest.mark.parametrize("length, fits", [(65532, True), (65534, False)])
def test_only_a_jpeg_loses_exif_that_is_too_long_for_it_with_a_warning(
    tmp_path, capsys, length, fits
):
    exif = Image.Exif()
    exif[0x010E] = "x" * (length - 33)
    assert len(exif.tobytes()) == length
    Image.fromarray(RGB).save(tmp_path / "in.png", exif=exif, dpi=(300, 300))
    photo = read_photo(tmp_path / "in.png")
    for name in ("out.jpg", "out.png", "out.webp"):
        write_photo(photo, tmp_path / name, like=photo)
        found = Image.open(tmp_path / name).getexif().get(0x010E)
        assert found == (exif[0x010E] if fits or name != "out.jpg" else None), name
    assert Image.open(tmp_path / "out.jpg").info["dpi"] == (300, 300)
    warning = f"warning: {tmp_path}/out.jpg: metadata left out: exif"
    assert capsys.readouterr().err.splitlines() == ([] if fits else [warning])


@pytest.mark.parametrize("extension", [".png", ".webp"])
def test_damaged_exif_costs_a_warning_and_not_the_photo(tmp_path, capsys, extension):
    path = tmp_path / f"in{extension}"
    Image.fromarray(RGB).save(path, exif=b"Exif\x00\x00no camera wrote this", lossless=True)
    assert difference(path, RGB) == 0 and "exif" not in read_photo(path).info
    assert set(capsys.readouterr().err.splitlines()) == {
        f"warning: {path}: its EXIF is damaged, and left out"
    }


def test_exif_that_cannot_be_written_again_costs_a_warning_and_not_the_photo(
    tmp_path, capsys, monkeypatch
):
    Image.fromarray(RGB).save(tmp_path / "in.png", exif=exif_with_everything())
    monkeypatch.setattr(Image.Exif, "tobytes", lambda exif: bytes(-1))
    monkeypatch.setattr(ImageOps, "exif_transpose", lambda image, in_place: None)
    assert difference(tmp_path / "in.png", RGB) == 0
    warning = f"warning: {tmp_path}/in.png: its EXIF is damaged, and left out\n"
    assert capsys.readouterr().err == warning


def test_whatever_turning_a_photo_raises_does_not_cost_the_photo(tmp_path, capsys, monkeypatch):
    class Odd(Exception):
        """One that nobody has ever heard of."""

    def fail(*args, **options):
        raise Odd

    Image.fromarray(RGB).save(tmp_path / "in.png", exif=exif_with_everything())
    monkeypatch.setattr(ImageOps, "exif_transpose", fail)
    assert difference(tmp_path / "in.png", RGB) == 0
    assert capsys.readouterr().err.endswith("in.png: its EXIF is damaged, and left out\n")


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_a_compressed_tiff_with_exif_is_read_and_written(tmp_path, compression):
    exif = exif_with_everything()
    Image.fromarray(RGB).save(tmp_path / "in.tif", compression=compression, exif=exif)
    assert Image.open(tmp_path / "in.tif").info["compression"] == compression
    photo = read_photo(tmp_path / "in.tif")
    write_photo(photo, tmp_path / "out.tif", like=photo)
    upright = np.rot90(RGB, -1)
    assert (levels(photo) == upright).all() and difference(tmp_path / "out.tif", upright) == 0


@pytest.mark.parametrize(
    "tag, value",
    [
        (257, 5),           # ImageLength
        (262, 0),           # PhotometricInterpretation: black is white
        (262, 6),           # and YCbCr, as it is in a camera's JPEG
        (278, 0),           # RowsPerStrip
        (320, 1),           # ColorMap
    ],
)
def test_no_tag_of_a_photos_exif_spoils_a_tiff(tmp_path, tag, value):
    exif = exif_with_everything()
    exif[tag] = value
    Image.fromarray(RGB).save(tmp_path / "in.jpg", exif=exif)
    photo = read_photo(tmp_path / "in.jpg")
    write_photo(photo, tmp_path / "out.png", like=photo)
    assert tag in Image.open(tmp_path / "in.jpg").getexif()             # so it was offered
    assert tag not in Image.open(tmp_path / "out.png").getexif()
    write_photo(photo, tmp_path / "out.tif", like=photo)
    assert difference(tmp_path / "out.tif", levels(photo)) == 0


@pytest.mark.parametrize("source", ["in.jpg", "in.png", "in.tif", "in.bmp"])
@pytest.mark.parametrize("target", ["out.jpg", "out.png", "out.tif"])
def test_dpi_is_kept(tmp_path, source, target):
    Image.fromarray(RGB).save(tmp_path / source, dpi=(300, 300))
    photo = read_photo(tmp_path / source)
    write_photo(photo, tmp_path / target, like=photo)
    assert Image.open(tmp_path / target).info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_a_dpi_that_is_no_number_is_left_out(tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag in (282, 283):
        tags[tag] = TiffImagePlugin.IFDRational(0, 0)
    Image.fromarray(RGB).save(tmp_path / "in.tif", tiffinfo=tags)
    photo = read_photo(tmp_path / "in.tif")
    assert "dpi" not in photo.info
    write_photo(photo, tmp_path / "out.jpg", like=photo)


@pytest.mark.parametrize("dpi", [70000, 4e9])
def test_a_dpi_beyond_what_a_jpeg_holds_is_left_out(tmp_path, dpi):
    """Pillow would cut it to 16 bits, or fail where it has more than 31."""
    Image.fromarray(RGB).save(tmp_path / "in.tif", dpi=(dpi, dpi))
    photo = read_photo(tmp_path / "in.tif")
    write_photo(photo, tmp_path / "out.jpg", like=photo)
    assert "dpi" not in Image.open(tmp_path / "out.jpg").info


def test_a_tiff_lends_a_photo_neither_a_dpi_that_it_has_not_nor_its_own_tags(tmp_path):
    """Pillow says 1 for none; and the tags tell of strips and compression."""
    Image.fromarray(RGB).save(tmp_path / "in.tif", compression="tiff_lzw")
    photo = read_photo(tmp_path / "in.tif")
    write_photo(photo, tmp_path / "out.jpg", like=photo)
    with Image.open(tmp_path / "out.jpg") as image:
        assert "dpi" not in image.info and "exif" not in image.info


@pytest.mark.parametrize("extension", [".png", ".webp", ".tif", ".tiff", ".bmp"])
def test_lossless_formats_are_lossless(tmp_path, extension):
    write_photo(Image.fromarray(RGB), tmp_path / f"out{extension}")
    assert difference(tmp_path / f"out{extension}", RGB) == 0


def test_jpeg_keeps_every_pixels_color(tmp_path):
    write_photo(Image.fromarray(RGB), tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as image:
        assert [component[1:3] for component in image.layer] == [(1, 1)] * 3
    assert difference(tmp_path / "out.jpg", RGB) < 16


def test_jpeg_has_quality_95(tmp_path):
    write_photo(Image.fromarray(RGB), tmp_path / "out.jpg")
    Image.fromarray(RGB).save(tmp_path / "95.jpg", quality=95)
    tables = [Image.open(tmp_path / name).quantization for name in ("out.jpg", "95.jpg")]
    assert tables[0] == tables[1]


def test_a_side_too_long_for_a_jpeg_is_named(tmp_path):
    with pytest.raises(PhotoError, match="out.jpg: a JPEG has at most 65500 pixels a side"):
        write_photo(Image.new("RGB", (65501, 1)), tmp_path / "out.jpg")
    write_photo(Image.new("RGB", (65500, 1)), tmp_path / "long.jpg")


def test_outputs_appear_whole_or_not_at_all(tmp_path):
    (tmp_path / "out.webp").write_bytes(b"before")
    with pytest.raises(PhotoError, match="out.webp: cannot be written"):
        write_photo(Image.new("RGB", (16400, 1)), tmp_path / "out.webp")    # more than 16,383
    assert (tmp_path / "out.webp").read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 1


def test_whatever_goes_wrong_in_writing_is_an_error_of_that_photo(tmp_path):
    photo = Image.fromarray(RGB)
    for broken in ({"exif": b"Exif\0\0II+"}, {"exif": 5}, {"dpi": "many"}):
        photo.info = broken
        with pytest.raises(PhotoError, match="out.tif: cannot be written: "):
            write_photo(photo, tmp_path / "out.tif", like=photo)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_the_cause_of_the_error(tmp_path, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "fsync", raising(full))
    with pytest.raises(PhotoError, match="out.png: .*No space left") as caught:
        write_photo(Image.fromarray(RGB), tmp_path / "out.png")
    assert caught.value.__cause__ is full


@pytest.mark.parametrize("extension", HOLDERS)
@pytest.mark.parametrize("described", [False, True])
def test_a_bigtiff_becomes_any_format(tmp_path, extension, described):
    exif = Image.Exif()
    exif[0x010E] = "Grandmother, 1931"
    tags = exif if described else {}
    out = tmp_path / f"out{extension}"
    Image.fromarray(RGB).save(tmp_path / "in.tif", big_tiff=True, tiffinfo=tags)
    photo = read_photo(tmp_path / "in.tif")
    write_photo(photo, out, like=photo)
    assert Image.open(out).getexif().get(0x010E) == ("Grandmother, 1931" if described else None)
    assert b"Exif\0\0II+" not in out.read_bytes(), "small TIFF is what EXIF is made of"
    assert difference(out, RGB) <= (16 if extension == ".jpg" else 0)


def make_files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
