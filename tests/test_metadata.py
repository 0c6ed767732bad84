"""What a photo file says about itself: kept where it is still true, or warned of."""
import struct

import numpy as np
import pytest
from PIL import ExifTags, Image, PngImagePlugin, TiffImagePlugin

from pix2pix.photo import read_photo, write_photo
from tests.helpers import noise

PHOTO = Image.fromarray(noise(61, 47))
HOLDERS = [".jpg", ".png", ".webp", ".tif"]             # formats that hold EXIF and XMP
TAG = ExifTags.Base
OWNER = 0xA430                                          # CameraOwnerName
TITLE = "Été à Łódź".encode("utf-16-le")


def rewrite(path, out):
    """Read a photo, and write it as infer.py does."""
    photo = read_photo(path)
    write_photo(photo, out, like=photo)
    return Image.open(out)


def exif_block(order, words):
    """EXIF with the same words in the description, as artist and as owner of the camera."""
    words += b"\0"
    parts = [(270, 2, words), (315, 2, words), (0x9C9B, 1, TITLE)]
    place = 8 + 2 + 12 * 4 + 4
    entries = b""
    beyond = b""
    for tag, kind, content in parts:
        entries += struct.pack(order + "HHLL", tag, kind, len(content), place + len(beyond))
        beyond += content + bytes(len(content) % 2)
    camera = place + len(beyond)
    pointer = struct.pack(order + "HHLL", 0x8769, 4, 1, camera)
    entries = entries[:24] + pointer + entries[24:]     # sorted by tag
    file = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "LH", 8, 4)
    file += entries + bytes(4) + beyond
    file += struct.pack(order + "HHHLLL", 1, OWNER, 2, len(words), camera + 18, 0) + words
    return b"Exif\0\0" + file


@pytest.mark.parametrize("order, encoding", [("<", "utf-8"), (">", "latin-1")])
@pytest.mark.parametrize("source", HOLDERS)
@pytest.mark.parametrize("target", HOLDERS)
def test_text_of_exif_keeps_its_bytes(tmp_path, capsys, source, target, encoding, order):
    words = "Grand-mère Zoë, 1931".encode(encoding)
    path = tmp_path / f"in{source}"
    if source == ".tif":
        tags = TiffImagePlugin.ImageFileDirectory_v2(prefix={"<": b"II", ">": b"MM"}[order])
        tags[270] = words
        tags[315] = words
        tags[0x9C9B] = TITLE
        PHOTO.save(path, tiffinfo=tags)
    else:
        PHOTO.save(path, exif=exif_block(order, words))
        assert words in path.read_bytes()
    with rewrite(path, tmp_path / f"out{target}") as image:
        exif = image.getexif()
        camera = exif.get_ifd(TAG.ExifOffset)
    assert exif[270].encode("latin-1") == exif[315].encode("latin-1") == words
    assert exif[0x9C9B] == TITLE
    assert source == ".tif" or camera[OWNER].encode("latin-1") == words
    assert capsys.readouterr().err == ""


IPTC = b"\x1c\x02\x78\x00\x0dMormor p\xe5 \xf6n."             # caption
THUMBNAIL = b"\xff\xd8 a small gray picture \xff\xd9"


def resource(number, content):
    header = b"8BIM" + struct.pack(">HHL", number, 0, len(content))
    return header + content + bytes(len(content) % 2)


def segment(marker, content):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def save_captions(path):
    """A JPEG with IPTC and two comments."""
    resolution = resource(0x03ED, struct.pack(">LHHLHH", 300 << 16, 1, 1, 72 << 16, 1, 1))
    photoshop = resolution + resource(0x0404, IPTC) + resource(0x040C, THUMBNAIL)
    extra = segment(0xED, b"Photoshop 3.0\0" + photoshop) + segment(0xFE, b"At the lake")
    exif = Image.Exif()
    exif[TAG.Artist] = "Zoe"
    PHOTO.save(path, extra=extra, comment=b"Album 3", exif=exif)


def test_iptc_and_comments_go_from_jpeg_to_jpeg(tmp_path, capsys):
    save_captions(tmp_path / "in.jpg")
    with rewrite(tmp_path / "in.jpg", tmp_path / "out.jpg") as image:
        assert image.info["photoshop"] == {0x0404: IPTC}
        assert set(image.info["comment"].split(b"\n")) == {b"At the lake", b"Album 3"}
    assert THUMBNAIL not in (tmp_path / "out.jpg").read_bytes(), "which would still be gray"
    assert capsys.readouterr().err == ""


def test_iptc_goes_from_tiff_to_tiff_and_to_jpeg(tmp_path, capsys):
    PHOTO.save(tmp_path / "in.tif", tiffinfo={33723: IPTC})
    with rewrite(tmp_path / "in.tif", tmp_path / "out.tif") as image:
        assert image.tag_v2[33723] == IPTC
    with rewrite(tmp_path / "out.tif", tmp_path / "out.jpg") as image:
        assert image.info["photoshop"] == {0x0404: IPTC}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "extension, lost",
    [
        (".png", "iptc, comment"),
        (".webp", "iptc, comment"),
        (".tif", "comment"),
        (".bmp", "exif, iptc, comment"),
    ],
)
def test_one_line_names_what_another_format_does_not_hold(tmp_path, capsys, extension, lost):
    save_captions(tmp_path / "in.jpg")
    out = tmp_path / f"out{extension}"
    rewrite(tmp_path / "in.jpg", out)
    assert capsys.readouterr().err == f"warning: {out}: metadata left out: {lost}\n"


@pytest.mark.parametrize("iptc", [IPTC, IPTC + b"!"])
def test_iptc_in_a_jpeg_takes_an_even_number_of_bytes(tmp_path, iptc):
    """As Photoshop wants it: a program that relies on it would miss what follows."""
    PHOTO.save(tmp_path / "in.tif", tiffinfo={33723: iptc})
    rewrite(tmp_path / "in.tif", tmp_path / "out.jpg").close()
    whole = segment(0xED, b"Photoshop 3.0\0" + resource(0x0404, iptc))
    assert whole in (tmp_path / "out.jpg").read_bytes()


def test_iptc_too_long_for_a_jpeg_is_left_out_with_a_warning(tmp_path, capsys):
    captions = {length: IPTC.ljust(length, b"x") for length in (65506, 65507)}
    for length, iptc in captions.items():
        PHOTO.save(tmp_path / "in.tif", tiffinfo={33723: iptc})
        rewrite(tmp_path / "in.tif", tmp_path / f"{length}.jpg")
    assert Image.open(tmp_path / "65506.jpg").info["photoshop"] == {0x0404: captions[65506]}
    warning = f"warning: {tmp_path}/65507.jpg: metadata left out: iptc\n"
    assert capsys.readouterr().err == warning


def save_numbers(path, numbers, order):
    """A TIFF with IPTC as 32-bit numbers, which is how many programs write it."""
    photo = Image.new("I;16B" if order == ">" else "L", (5, 4))     # decides on the order
    photo.save(path, tiffinfo={65000: numbers})
    content = path.read_bytes()
    entry = struct.pack(order + "HH", 65000, 4)
    assert content.count(entry) == 1
    path.write_bytes(content.replace(entry, struct.pack(order + "HH", 33723, 4)))


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("order", "<>")
def test_iptc_of_a_tiff_may_be_numbers(tmp_path, capsys, order):
    numbers = struct.unpack(f"{order}5L", IPTC.ljust(20, b"\0"))
    save_numbers(tmp_path / "in.tif", numbers, order)
    with rewrite(tmp_path / "in.tif", tmp_path / "out.jpg") as image:
        assert image.info["photoshop"] == {0x0404: IPTC.ljust(20, b"\0")}
    assert capsys.readouterr().err == ""


@pytest.mark.filterwarnings("ignore:::PIL")
def test_iptc_that_is_none_is_left_out_with_a_warning(tmp_path, capsys):
    save_numbers(tmp_path / "in.tif", [2**31 + 5], "<")
    rewrite(tmp_path / "in.tif", tmp_path / "out.jpg")
    warning = f"warning: {tmp_path}/in.tif: its XMP or IPTC is damaged, and left out\n"
    assert capsys.readouterr().err == warning


def test_a_comment_goes_from_gif_to_jpeg(tmp_path):
    PHOTO.quantize(256).save(tmp_path / "in.gif", comment=b"Album 3")
    with rewrite(tmp_path / "in.gif", tmp_path / "out.jpg") as image:
        assert image.info["comment"] == b"Album 3"


def test_titles_of_a_png_stay_in_a_png_and_are_warned_of_elsewhere(tmp_path, capsys):
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", "Wedding in Łódź")
    text.add_text("Author", "Zoë", zip=True)
    text.add_text("Software", "a scanner's")
    text.add_text("date:create", "2020-01-01")
    PHOTO.save(tmp_path / "in.png", pnginfo=text)
    with rewrite(tmp_path / "in.png", tmp_path / "out.png") as image:
        assert image.text == {"Title": "Wedding in Łódź", "Author": "Zoë"}
    assert capsys.readouterr().err == ""
    out = tmp_path / "out.jpg"
    rewrite(tmp_path / "in.png", out)
    assert capsys.readouterr().err == f"warning: {out}: metadata left out: titles\n"


def raw_profile(kind, content):
    """Metadata in a PNG as ImageMagick writes it."""
    text = PngImagePlugin.PngInfo()
    text.add_text(f"Raw profile type {kind}", f"\n{kind}\n{len(content):8}\n{content.hex()}\n")
    return text


XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:Description dc:title='Mormor'/></x:xmpmeta>"


def gif_with_xmp(path):
    PHOTO.quantize(16).save(path)
    trailer = b"\1" + bytes(range(255, -1, -1)) + b"\0"
    path.write_bytes(path.read_bytes()[:-1] + b"\x21\xff\x0bXMP DataXMP" + XMP + trailer + b";")


def jp2_with_xmp(path):
    PHOTO.save(path)
    uuid = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
    box = struct.pack(">L4s", 8 + 16 + len(XMP), b"uuid") + uuid + XMP
    path.write_bytes(path.read_bytes() + box)


@pytest.mark.parametrize("name, save", [("a.gif", gif_with_xmp), ("a.jp2", jp2_with_xmp)])
def test_xmp_that_pillow_passes_over_is_kept(tmp_path, capsys, name, save):
    save(tmp_path / name)
    with rewrite(tmp_path / name, tmp_path / "out.jpg") as image:
        assert image.info["xmp"] == XMP
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind, content", [("iptc", resource(0x0404, IPTC)), ("xmp", XMP)])
def test_a_raw_profile_is_left_out_with_a_warning(tmp_path, capsys, kind, content):
    PHOTO.save(tmp_path / "in.png", pnginfo=raw_profile(kind, content))
    rewrite(tmp_path / "in.png", tmp_path / "out.png")
    warning = f"warning: {tmp_path}/out.png: metadata left out: Raw profile type {kind}\n"
    assert capsys.readouterr().err == warning


@pytest.mark.parametrize("kind, xmp", [(2, "text"), (4, 1234)])
def test_xmp_of_an_odd_kind_does_not_cost_the_photo(tmp_path, capsys, kind, xmp):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.tagtype[700] = kind
    tags[700] = xmp
    PHOTO.save(tmp_path / "in.tif", tiffinfo=tags)
    assert np.array_equal(read_photo(tmp_path / "in.tif"), PHOTO)
    warning = f"warning: {tmp_path}/in.tif: its XMP is damaged, and left out\n"
    assert capsys.readouterr().err == warning


STALE = b"""<rdf:Description dc:title='Mormor' GCamera:MotionPhoto="1" hdrgm:Version="1.0"
 GCamera:MotionPhotoPresentationTimestampUs='5' photoshop:ColorMode="1" crs:Exposure2012="1"
 crs:ConvertToGrayscale="True" crs:Treatment="Black &amp; White" xmp:Rating='4'>
 <hdrgm:GainMapMax><rdf:Seq><rdf:li>1</rdf:li></rdf:Seq></hdrgm:GainMapMax>
 <Container:Directory><rdf:Seq><rdf:li Item:Semantic="GainMap"/></rdf:Seq></Container:Directory>
 <tiff:PhotometricInterpretation>1</tiff:PhotometricInterpretation>
 <dc:creator>Z</dc:creator></rdf:Description>"""


def test_xmp_no_longer_tells_of_gray_gain_maps_and_motion(tmp_path):
    PHOTO.save(tmp_path / "in.webp", xmp=STALE)
    with rewrite(tmp_path / "in.webp", tmp_path / "out.jpg") as image:
        xmp = image.info["xmp"]
    for word in b"Motion hdrgm Gain Container Color Gray Treatment Photometric".split():
        assert word not in xmp, word
    for word in (b"dc:title='Mormor'", b"xmp:Rating='4'", b"<dc:creator>Z<", b"crs:Exposure"):
        assert word in xmp, word


def test_the_second_part_of_long_xmp_is_left_out_with_a_warning(tmp_path, capsys):
    PHOTO.save(tmp_path / "in.jpg", xmp=b"<a xmpNote:HasExtendedXMP='0123' dc:title='Mormor'/>")
    with rewrite(tmp_path / "in.jpg", tmp_path / "out.jpg") as image:
        assert image.info["xmp"] == b"<a dc:title='Mormor'/>"
    warning = f"warning: {tmp_path}/out.jpg: metadata left out: second part of XMP\n"
    assert capsys.readouterr().err == warning


FACES = b"""<a><mwg-rs:Regions rdf:parseType="Resource"><mwg-rs:RegionList><rdf:li
 mwg-rs:Name="Mormor"/></mwg-rs:RegionList></mwg-rs:Regions><dc:subject>Mormor</dc:subject></a>"""


@pytest.mark.parametrize("orientation", [0, 1, 3, 6])
@pytest.mark.parametrize("extension", [".jpg", ".tif"])
def test_places_in_a_turned_photo_are_left_out(tmp_path, capsys, orientation, extension):
    path = tmp_path / f"in{extension}"
    exif = Image.Exif()
    exif[TAG.Orientation] = orientation
    exif[TAG.ExifOffset] = {0x9214: (10, 20), OWNER: "Z"}
    if extension == ".tif":
        exif.load(exif.tobytes())
        exif[TAG.XMLPacket] = FACES
    PHOTO.save(path, exif=exif, xmp=FACES)
    with rewrite(path, tmp_path / "out.jpg") as image:
        is_turned = orientation > 1
        assert (b"Regions" not in image.info["xmp"]) == is_turned
        assert b"<dc:subject>Mormor</dc:subject>" in image.info["xmp"]
        camera = image.getexif().get_ifd(TAG.ExifOffset)
        assert (0x9214 not in camera) == is_turned and camera[OWNER] == "Z"
    warning = f"warning: {tmp_path}/out.jpg: metadata left out: "
    warning += "places of faces before the photo was turned"
    expected = [warning] if is_turned else []
    assert capsys.readouterr().err.splitlines() == expected


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", [".jpg", ".tif", ".png"])
def test_dpi_is_turned_with_the_photo(tmp_path, orientation, extension):
    path = tmp_path / f"in{extension}"
    exif = Image.Exif()
    exif[TAG.Orientation] = orientation
    PHOTO.save(path, exif=exif, dpi=(300, 600))
    with rewrite(path, tmp_path / "out.jpg") as image:
        expected = (600, 300) if orientation >= 5 else (300, 600)
        assert image.info["dpi"] == expected
