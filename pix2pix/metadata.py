"""What a photo file says about itself: EXIF, XMP, IPTC, comments, titles and resolution."""
import re
import struct
from copy import copy
from math import inf

from PIL import ExifTags, Image, ImageOps, PngImagePlugin

from pix2pix.terminal import warn

# What each format holds, and up to how many bytes.
HELD = {
    "JPEG": {"exif": 65533, "xmp": 65502, "iptc": 65506, "comment": 65533},
    "PNG": {"exif": inf, "xmp": inf, "titles": inf},
    "WEBP": {"exif": inf, "xmp": inf},
    "TIFF": {"exif": inf, "xmp": inf, "iptc": inf},
    "BMP": {},
}

TAG = ExifTags.Base
# The EXIF tags that describe the photo. The others describe the layout of its file.
DESCRIPTIVE = """
    DocumentName PageName ImageDescription Artist Copyright Make Model Software HostComputer
    DateTime Rating RatingPercent XPTitle XPComment XPAuthor XPKeywords XPSubject
    ExifOffset GPSInfo
""".split()
TURNED = range(2, 9)        # the orientations of photos that are to be turned
# What EXIF says about pixels that have changed; and about places in a photo that was turned.
STALE = "ColorSpace Gamma ExifInteroperabilityOffset ExifImageWidth ExifImageHeight".split()
PLACES = ["SubjectLocation"]            # and SubjectArea, which has the same name in Pillow

IPTC = 0x0404               # among the numbered resources that Photoshop writes into a JPEG
XMP_PACKET = re.compile(rb"<x:xmpmeta.*?</x:xmpmeta>", re.DOTALL)
# The texts of a PNG that programs write for each other.
TECHNICAL = re.compile("Raw profile type exif|Software$|.*:")


def _properties(names):
    """A pattern of the XMP properties of these names, both as elements and as attributes."""
    names = "|".join(names.split())
    pattern = rf"<({names})\b.*?</\1>|\s({names})\s*=\s*([\"']).*?\3"
    return re.compile(pattern.encode(), re.DOTALL)


# What XMP says about pixels that have changed, and about parts of the file that are left out.
STALE_XMP = _properties(r"""
    tiff:Orientation tiff:ImageWidth tiff:ImageLength tiff:BitsPerSample tiff:SamplesPerPixel
    tiff:PhotometricInterpretation exif:PixelXDimension exif:PixelYDimension exif:ColorSpace
    photoshop:ICCProfile photoshop:ColorMode crs:Treatment crs:\w*Gray\w* xmp:Thumbnails
    xmpNote:HasExtendedXMP GCamera:Mo\w+ GCamera:Micro\w+ Container:Directory hdrgm:\w+
    HDRGainMap:\w+
""")
REGIONS = _properties("mwg-rs:Regions MP:RegionInfo Iptc4xmpExt:ImageRegion")


class Text(str):
    """Text of EXIF. Pillow reads its bytes as Latin-1, but would write question marks."""

    def encode(self, *_):
        return super().encode("latin-1")


def turn_upright(image, orientation, file, name):
    """Turn a loaded image in place as its EXIF says, and return the metadata that is still true.

    `orientation` is 1 unless loading has already turned the image; `file` is the open file.
    Returns a dict of what is there: exif, xmp, iptc and comment (bytes), titles (a dict, of a PNG),
    dpi (two numbers) and, by its name, what no format can keep. Warns of what is damaged.
    """
    info = {}
    try:
        orientation = image.getexif().get(TAG.Orientation, orientation)
        ImageOps.exif_transpose(image, in_place=True)
        info["exif"] = _descriptive_exif(image.getexif(), orientation)
    except Exception:
        warn(name, "its EXIF is damaged, and left out")
    try:
        info |= _texts(image, file, orientation)
    except Exception:
        warn(name, "its XMP or IPTC is damaged, and left out")
    dpi = [float(value) for value in image.info.get("dpi", [1])]
    if all(1 < value < 65535 for value in dpi):         # 1 is Pillow's for none
        info["dpi"] = dpi[::-1] if orientation in range(5, 9) else dpi
    return info


def save_options(info, format, path):
    """The options of Image.save for the metadata `info`. Warns of what is left out."""
    options = {"exif": b"", "xmp": b"", "iptc": b"", "titles": {}}
    lost = []
    for kind, content in info.items():
        # Nobody misses the resolution of a WebP, the only one without it.
        if kind == "dpi" or len(content) <= HELD[format].get(kind, 0):
            options[kind] = content
        else:
            lost.append(kind)
    if lost:
        warn(path, f"metadata left out: {', '.join(lost)}")
    if format == "JPEG" and options["iptc"]:
        options["extra"] = _iptc_segment(options["iptc"])
    elif format == "PNG":
        options["pnginfo"] = _png_chunks(options)
    elif format == "TIFF":
        options["exif"] = _tiff_tags(options)
    return options


def directory(image, file, offset):
    """The tags that an image, which is a TIFF, has at a place in its file."""
    tags = copy(image.tag_v2)
    tags.group = TAG.ExifOffset         # for Pillow, which otherwise keeps the first number only
    file.seek(offset)
    tags.load(file)
    return tags


def _descriptive_exif(exif, orientation):
    for tag in list(exif):
        if ExifTags.TAGS.get(tag) not in DESCRIPTIVE:
            del exif[tag]
    _clean(exif, STALE + PLACES if orientation in TURNED else STALE)
    exif.bigtiff = False                # EXIF has the layout of a small TIFF
    return exif.tobytes() if len(exif) else b""


def _clean(exif, stale=()):
    """Remove tags, and let Pillow write the bytes of text that it has read."""
    parts = [exif] + [exif.get_ifd(tag) for tag in (TAG.ExifOffset, TAG.GPSInfo) if tag in exif]
    for tags in parts:
        for tag, value in list(tags.items()):
            if ExifTags.TAGS.get(tag) in stale:
                del tags[tag]
            elif isinstance(value, str):
                tags[tag] = Text(value)


def _texts(image, file, orientation):
    """XMP, IPTC, comment and titles, and what is lost of them."""
    info = {"iptc": _iptc(image, file), "comment": _comment(image), "titles": {}}
    texts = image.text if image.format == "PNG" else {}
    for key, text in texts.items():
        if key.startswith("Raw profile") and not key.endswith("exif"):
            info[key] = text
        elif not TECHNICAL.match(key):
            info["titles"][key] = text
    xmp = _xmp(image, file)
    if orientation in TURNED:
        info["places of faces before the photo was turned"] = REGIONS.findall(xmp)
        xmp = REGIONS.sub(b"", xmp)
    info["second part of XMP"] = re.findall(b"HasExtendedXMP", xmp)
    info["xmp"] = STALE_XMP.sub(b"", xmp)
    return info


def _xmp(image, file):
    if image.format not in ("GIF", "JPEG2000"):
        return image.info.get("xmp", b"")
    file.seek(0)                        # Pillow passes over it
    packet = XMP_PACKET.search(file.read())
    return packet[0] if packet else b""


def _iptc(image, file):
    """The captions of a JPEG or TIFF. A TIFF may hold them as 32-bit numbers."""
    if image.format != "TIFF":
        return image.info.get("photoshop", {}).get(IPTC, b"")
    iptc = directory(image, file, image.tag_v2.offset).get(TAG.IPTCNAA, b"")
    if isinstance(iptc, bytes):
        return iptc
    order = "<" if image.tag_v2.prefix == b"II" else ">"
    return struct.pack(f"{order}{len(iptc)}L", *iptc)


def _comment(image):
    """The comments of a JPEG or GIF. Those of JPEG 2000 only name a program."""
    if image.format == "GIF":
        return image.info.get("comment", b"")
    segments = getattr(image, "applist", [])
    return b"\n".join(content for kind, content in segments if kind == "COM")


def _iptc_segment(iptc):
    """IPTC in a segment of a JPEG, as Photoshop writes it."""
    resource = struct.pack(">14s4sHHL", b"Photoshop 3.0", b"8BIM", IPTC, 0, len(iptc)) + iptc
    resource += bytes(len(iptc) % 2)
    return struct.pack(">HH", 0xFFED, len(resource) + 2) + resource


def _png_chunks(options):
    chunks = PngImagePlugin.PngInfo()
    if options["xmp"]:
        chunks.add_itxt("XML:com.adobe.xmp", options["xmp"].decode(errors="ignore"))
    for key, text in options["titles"].items():
        chunks.add_text(key, text)
    return chunks


def _tiff_tags(options):
    tags = Image.Exif()
    tags.load(options["exif"])
    _clean(tags)
    if options["xmp"]:
        tags[TAG.XMLPacket] = options["xmp"]
    if options["iptc"]:
        tags[TAG.IPTCNAA] = options["iptc"]
    return tags
