"""Any photo that a person owns: read right, written whole."""
import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, ImageOps, TiffImagePlugin

from pix2pix.photo import PhotoError, check_photo, find_photos, read_photo, shrink, write_photo
from tests.helpers import noise

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


@pytest.mark.parametrize("scale, shift", [(1, 0), (1000, 0), (3, -1)])
def test_float_pictures_are_taken_as_zero_to_one_or_stretched(tmp_path, scale, shift):
    unit = noise(61, 47, channels=1) / 255
    unit = (unit - unit.min()) / (unit.max() - unit.min()) if scale > 1 else unit
    values = (unit * scale + shift).astype(np.float32)
    Image.fromarray(values).save(tmp_path / "float.tif")
    assert difference(tmp_path / "float.tif", (unit * 255).round()) <= 1


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_in_a_float_picture_is_black_and_spoils_nothing_else(tmp_path, odd):
    values = np.full((8, 8), 0.5, dtype=np.float32)
    values[0, 0] = odd
    Image.fromarray(values).save(tmp_path / "odd.tif")
    photo = read_photo(tmp_path / "odd.tif")
    assert photo.getpixel((0, 0)) == (0, 0, 0) and photo.getpixel((1, 1)) == (128, 128, 128)


@pytest.mark.parametrize(
    "dtype, levels",
    [
        (np.float32, {-2: 0, 0: 0, 0.5: 128, 1: 255, 7: 255}),
        (np.uint16, {0: 0, 257: 1, 32896: 128, 65535: 255}),
        (np.int32, {-5: 0, 0: 0, 32896: 128, 70000: 255}),
    ],
)
def test_constant_deep_pictures_have_their_level(tmp_path, dtype, levels):
    for value, level in levels.items():
        Image.fromarray(np.full((4, 5), value, dtype=dtype)).save(tmp_path / "flat.tif")
        assert difference(tmp_path / "flat.tif", np.full((4, 5), level)) == 0, value


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


def test_the_first_of_several_pages_and_frames(tmp_path):
    first = Image.fromarray(RGB).quantize(256)
    second = Image.fromarray(255 - RGB).quantize(256)
    for name in ("pages.tif", "frames.gif", "frames.webp", "frames.png"):
        first.save(tmp_path / name, save_all=True, append_images=[second], lossless=True)
        assert difference(tmp_path / name, first.convert("RGB")) <= 1, name


def test_sides_of_one_pixel_and_uniform_photos(tmp_path):
    for size in ((1, 1), (3, 2000), (2000, 3)):
        for color in ("black", "white"):
            Image.new("RGB", size, color).save(tmp_path / "u.png")
            photo = read_photo(tmp_path / "u.png")
            assert photo.size == size and shrink(photo, 64).shape == (3, 64, 64)


def test_shrinking_takes_the_mean_of_fine_detail():
    """Black and white checks of one pixel become gray."""
    checks = np.indices((96, 96)).sum(axis=0) % 2 == 0
    shrunk = shrink(Image.fromarray(np.uint8(255 * checks)).convert("RGB"), 32)
    assert (shrunk.int() - 128).abs().max() <= 3


def test_shrinking_sharpens_edges():
    """As Lanczos' filter does, and a mean of neighbours does not: it goes beyond both sides."""
    edge = np.repeat([[64], [192]], 48, axis=0).repeat(96, axis=1)
    shrunk = shrink(Image.fromarray(np.uint8(edge)).convert("RGB"), 32)
    assert shrunk.min() < 64 and shrunk.max() > 192


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


NO_PICTURE = "formats? that can be read.*JPEG.*PNG.*WEBP.*TIFF.*BMP.*GIF.*PPM.*JPEG2000.*AVIF"


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
        ("bomb.png", png_bomb(), "decompression bomb"),
    ],
)
def test_what_is_not_a_picture_is_one_clear_line(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PhotoError, match=words) as caught:
        read_photo(tmp_path / name)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_the_content_of_a_whole_photo_passes_and_no_other():
    whole = jpeg_bytes()
    assert check_photo(whole) == whole
    for content in (b"", whole[:2000], b"<!DOCTYPE html><html></html>"):
        with pytest.raises(PhotoError):
            check_photo(content)


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


@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp"])
def test_exif_is_kept_with_its_orientation_reset(tmp_path, extension):
    data = exif_with_everything().tobytes()
    Image.fromarray(RGB).save(tmp_path / "in.jpg", exif=data)
    photo = read_photo(tmp_path / "in.jpg")
    out = tmp_path / f"out{extension}"
    write_photo(photo, out, like=photo)
    exif = Image.open(out).getexif()
    assert exif[0x010E] == "Grandmother, 1931"
    assert exif.get_ifd(0x8769)[0x9003] == "1931:05:01 12:00:00"
    assert exif.get_ifd(0x8825)[1] == "N" and exif.get(0x0112, 1) == 1 and not exif.get_ifd(1)
    assert Image.open(out).size == photo.size == (47, 61)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_thumbnail_is_dropped_which_would_still_be_gray(tmp_path, orientation):
    thumbnail = b"\xff\xd8 a small gray picture \xff\xd9"
    exif = b"Exif\0\0MM\0*" + struct.pack(
        ">L" "H" "HHLHH" "L" "H" "HHLL" "HHLL" "L",
        8,                                              # where the first directory is
        1, 0x0112, 3, 1, orientation, 0,
        26,                                             # where the second is, the thumbnail's
        2, 0x0201, 4, 1, 56, 0x0202, 4, 1, len(thumbnail),
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
    warning = f"warning: {tmp_path}/out.jpg: its EXIF is longer than a JPEG can hold, and left out"
    assert capsys.readouterr().err.splitlines() == ([] if fits else [warning])


@pytest.mark.parametrize("extension", [".png", ".webp"])
def test_damaged_exif_costs_a_warning_and_not_the_photo(tmp_path, capsys, extension):
    path = tmp_path / f"in{extension}"
    Image.fromarray(RGB).save(path, exif=b"Exif\x00\x00no camera wrote this", lossless=True)
    assert difference(path, RGB) == 0 and read_photo(path).info["exif"] == b""
    assert set(capsys.readouterr().err.splitlines()) == {
        f"warning: {path}: its EXIF is damaged, and left out"
    }


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
    assert Image.open(tmp_path / "out.png").getexif()[tag] == value     # so it was offered
    write_photo(photo, tmp_path / "out.tif", like=photo)
    assert difference(tmp_path / "out.tif", levels(photo)) == 0


@pytest.mark.parametrize("source", ["in.jpg", "in.png", "in.tif", "in.bmp"])
@pytest.mark.parametrize("target", ["out.jpg", "out.png", "out.tif", "out.bmp"])
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


def test_outputs_appear_whole_or_not_at_all(tmp_path):
    (tmp_path / "out.webp").write_bytes(b"before")
    with pytest.raises(PhotoError, match="out.webp: cannot be written"):
        write_photo(Image.new("RGB", (16400, 1)), tmp_path / "out.webp")    # more than 16,383
    assert (tmp_path / "out.webp").read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 1


def test_find_photos_leaves_other_files_and_the_output_folder_alone(tmp_path):
    photos = ["a/folder.jpg/y.webp", "a/old.heic", "a/z.png", "b.JPG"]
    others = ["a/Thumbs.db", "draw.eps", "notes.txt"]
    for name in (*photos, *others, "out/b.JPG"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = find_photos(tmp_path, leave_out=tmp_path / "out")
    assert [path.relative_to(tmp_path).as_posix() for path in found] == photos
    assert len(find_photos(tmp_path / "a", leave_out=tmp_path)) == 3, "which does not lie in it"
