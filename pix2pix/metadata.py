"""What a photo file says about itself: EXIF, XMP, IPTC, comments, titles and resolution."""
import re
import struct
from copy import copy

from PIL import ExifTags, Image, ImageOps, PngImagePlugin

from pix2pix.terminal import warn

# What each format holds, and how people call it.
HELD = {
    "JPEG": ["exif", "xmp", "iptc", "comment", "dpi"],
    "PNG": ["exif", "xmp", "text", "dpi"],
    "WEBP": ["exif", "xmp"],
    "TIFF": ["exif", "xmp", "iptc", "dpi"],
    "BMP": ["dpi"],
}
NAMES = {
    "exif": "EXIF",
    "xmp": "XMP",
    "iptc": "IPTC",
    "comment": "comment",
    "text": "titles",
}
MAX_IN_JPEG = {"exif": 65533, "xmp": 65502, "iptc": 65506, "comment": 65533}        # bytes

TAG = ExifTags.Base
# The EXIF tags that describe the photo. The others describe the layout of its file.
DESCRIPTIVE = """
    DocumentName PageName ImageDescription Artist Copyright Make Model Software HostComputer
    DateTime Rating RatingPercent XPTitle XPComment XPAuthor XPKeywords XPSubject
    ExifOffset GPSInfo
""".split()
# What EXIF says about pixels that have changed; and about places in a photo that was turned.
STALE = [
    TAG.ColorSpace,
    TAG.Gamma,
    TAG.ExifInteroperabilityOffset,
    TAG.ExifImageWidth,
    TAG.ExifImageHeight,
]
PLACES = [0x9214, 0xA214]   # SubjectArea, SubjectLocation

IPTC = 0x0404               # among the numbered resources that Photoshop writes into a JPEG
XMP_PACKET = re.compile(rb"<x:xmpmeta.*?</x:xmpmeta>", re.DOTALL)
# The texts of a PNG that programs write for each other.
TECHNICAL = re.compile("Raw profile type|Software$|.*:")


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
    Returns a dict of exif, xmp, iptc and comment (bytes), text (a dict, of a PNG), lost (a list of
    words: what cannot be kept) and, if it is known, dpi (two numbers). Warns of what is damaged.
    """
    info = {"exif": b"", "xmp": b""}
    try:
        orientation = image.getexif().get(TAG.Orientation, orientation)
        if orientation not in range(1, 9):              # such as 0: unknown
            orientation = 1
        ImageOps.exif_transpose(image, in_place=True)
        info["exif"] = _descriptive_exif(image.getexif(), orientation)
    except Exception:
        warn(name, "its EXIF is damaged, and left out")
    try:
        xmp = _find_xmp(image, file)
        info["xmp"] = _descriptive_xmp(xmp, orientation)
    except Exception:
        xmp = b""
        warn(name, "its XMP is damaged, and left out")
    info["iptc"] = _iptc(image, file)
    info["comment"] = _comment(image)
    info["text"] = _text(image)
    info["lost"] = _lost(image, xmp, info["iptc"], orientation)
    dpi = [float(value) for value in image.info.get("dpi", [1])]
    if all(1 < value < 65535 for value in dpi):         # 1 is Pillow's for none
        info["dpi"] = dpi[::-1] if orientation in (5, 6, 7, 8) else dpi
    return info


def save_options(info, format, path):
    """The options of Image.save for the metadata `info`. Warns of what is left out."""
    lost = [NAMES[kind] for kind in NAMES if info.get(kind) and kind not in HELD[format]]
    lost += info.get("lost", [])
    if lost:
        warn(path, f"metadata left out: {', '.join(lost)}")
    # Without these two, Pillow would take those of the image.
    options = {"exif": b"", "xmp": b""}
    options |= {kind: info[kind] for kind in HELD[format] if kind in info}
    if format == "JPEG":
        _fit_into_jpeg(options, path)
    elif format == "PNG":
        options["pnginfo"] = _png_chunks(options)
    elif format == "TIFF":
        options["exif"] = _tiff_tags(options)
    return options


def _descriptive_exif(exif, orientation):
    for tag in list(exif):
        if ExifTags.TAGS.get(tag) not in DESCRIPTIVE:
            del exif[tag]
    camera = exif.get_ifd(TAG.ExifOffset) if TAG.ExifOffset in exif else {}
    stale = STALE if orientation == 1 else STALE + PLACES
    for tag in stale:
        camera.pop(tag, None)
    _keep_text(exif)
    exif.bigtiff = False                # EXIF has the layout of a small TIFF
    return exif.tobytes() if len(exif) else b""


def _keep_text(exif):
    """Let Pillow write the bytes of text that it has read."""
    parts = [exif]
    for part in (TAG.ExifOffset, TAG.GPSInfo):
        if part in exif:
            parts.append(exif.get_ifd(part))
    for tags in parts:
        for tag, value in list(tags.items()):
            if isinstance(value, str):
                tags[tag] = Text(value)


def _find_xmp(image, file):
    if "Raw profile type xmp" in image.info:            # of a PNG: three lines, then digits
        return bytes.fromhex("".join(image.info["Raw profile type xmp"].split("\n")[3:]))
    if image.format in ("GIF", "JPEG2000"):             # Pillow passes over it
        file.seek(0)
        packet = XMP_PACKET.search(file.read())
        return packet[0] if packet else b""
    return image.info.get("xmp", b"")


def _descriptive_xmp(xmp, orientation):
    if orientation != 1:
        xmp = REGIONS.sub(b"", xmp)
    return STALE_XMP.sub(b"", xmp)


def _iptc(image, file):
    """The captions of a JPEG or TIFF. A TIFF may hold them as 32-bit numbers."""
    if image.format != "TIFF":
        return image.info.get("photoshop", {}).get(IPTC, b"")
    tags = copy(image.tag_v2)
    tags.group = TAG.ExifOffset         # for Pillow, which otherwise keeps the first number only
    file.seek(tags.offset)
    tags.load(file)
    iptc = tags.get(TAG.IPTCNAA, b"")
    if isinstance(iptc, tuple):
        order = "<" if tags.prefix == b"II" else ">"
        iptc = struct.pack(f"{order}{len(iptc)}L", *iptc)
    is_iptc = isinstance(iptc, bytes) and iptc.startswith(b"\x1c")
    return iptc if is_iptc else b""


def _comment(image):
    """The comments of a JPEG or GIF. Those of JPEG 2000 only name a program."""
    if image.format == "GIF":
        return image.info.get("comment", b"")
    segments = getattr(image, "applist", [])
    return b"\n".join(content for kind, content in segments if kind == "COM")


def _text(image):
    """The title, author and so on of a PNG."""
    text = image.text if image.format == "PNG" else {}
    return {key: value for key, value in text.items() if not TECHNICAL.match(key)}


def _lost(image, xmp, iptc, orientation):
    """What cannot be kept of the metadata of a file, in words."""
    lost = []
    if b"HasExtendedXMP" in xmp:
        lost.append("second part of XMP")
    if orientation != 1 and REGIONS.search(xmp):
        lost.append("places of faces before the photo was turned")
    if image.format == "TIFF" and TAG.IPTCNAA in image.tag_v2 and not iptc:
        lost.append("IPTC")
    for key in image.info:
        kind = str(key).removeprefix("Raw profile type ")
        if kind not in (key, "exif", "xmp"):
            lost.append(f"raw profile {kind}")
    return lost


def _fit_into_jpeg(options, path):
    for kind, most in MAX_IN_JPEG.items():
        if len(options.get(kind, b"")) > most:
            warn(path, f"its {NAMES[kind]} is too long for a JPEG, and left out")
            options[kind] = b""
    iptc = options.get("iptc")
    if iptc:
        resource = b"8BIM" + IPTC.to_bytes(2, "big") + bytes(2) + len(iptc).to_bytes(4, "big")
        segment = b"Photoshop 3.0\0" + resource + iptc + bytes(len(iptc) % 2)
        options["extra"] = b"\xff\xed" + (len(segment) + 2).to_bytes(2, "big") + segment


def _png_chunks(options):
    chunks = PngImagePlugin.PngInfo()
    if options["xmp"]:
        chunks.add_itxt("XML:com.adobe.xmp", options["xmp"].decode(errors="ignore"))
    for key, value in options.get("text", {}).items():
        chunks.add_text(key, value)
    return chunks


def _tiff_tags(options):
    tags = Image.Exif()
    tags.load(options["exif"])
    _keep_text(tags)
    if options["xmp"]:
        tags[TAG.XMLPacket] = options["xmp"]
    if options.get("iptc"):
        tags[TAG.IPTCNAA] = options["iptc"]
    return tags
