"""The photos in a folder, and what is left out there."""
import os
import re
from pathlib import Path

from pix2pix.photo import PhotoError

PHOTOS = """
    .jpg .jpeg .jpe .jfif .mpo .png .apng .webp .tif .tiff .bmp .gif .ppm .pgm .pbm .pnm .pfm
    .jp2 .j2k .j2c .jpc .jpf .jpx .avif .avifs
""".split()
UNREADABLE_PHOTOS = """
    .3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .heic .heif .hif .iiq .jxl .kdc .mef .mos .mrw .nef
    .nrw .orf .pef .psd .raf .rw2 .rwl .sr2 .srf .srw .x3f
""".split()
# What looks like an extension. In "1920.05" or "anna.jpg_large", nothing does.
EXTENSION = re.compile(r"\.\d?[a-z]\w{0,4}", re.IGNORECASE)
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*")       # the last two: TIFF
# Thumbnails, backups and trash of programs, NAS devices, macOS and Windows.
HIDDEN = re.compile(
    r"\..*|.*\.\w+(_original|~)|@eaDir|@__thumb|@Recycle|@Recently-Snapshot|#recycle|#snapshot|"
    r"__MACOSX|\$RECYCLE\.BIN|RECYCLER|System Volume Information|lost\+found",
    re.IGNORECASE
)


def find_photos(folder, leave_out=None):
    """The photos below `folder`, and the problems met there.

    Returns a sorted list of paths, chosen by extension, and a list of exceptions: one for each
    folder that cannot be opened, one that counts the photos in formats that cannot be read, one
    that counts those without a usable extension, and one if no photo is found. Skips hidden files
    and folders, folders that hold a run of train.py, and the folder `leave_out`. Both folders are
    resolved paths.
    """
    paths = []
    problems = []
    for parent, folders, names in os.walk(folder, onerror=problems.append):
        try:
            os.stat(os.path.join(parent, "."))      # some folders can be listed but not entered
        except OSError as error:
            problems.append(error)
            folders.clear()
            continue
        if "checkpoint.pt" in names and "samples" in folders:
            folders.remove("samples")               # they would become training photos
            if Path(parent) != folder:
                folders.clear()
                continue
        paths += [Path(parent, name) for name in names if not HIDDEN.fullmatch(name)]
        folders[:] = [
            name for name in folders
            if not HIDDEN.fullmatch(name) and Path(parent, name) != leave_out
        ]
    photos = sorted(path for path in paths if path.suffix.lower() in PHOTOS)
    unreadable = [path.name for path in paths if path.suffix.lower() in UNREADABLE_PHOTOS]
    nameless = [path.name for path in paths if _lacks_extension(path)]
    if unreadable:
        problems.append(PhotoError(
            f"{len(unreadable)} files in formats that cannot be read, such as {min(unreadable)}"
        ))
    if nameless:
        problems.append(PhotoError(
            f"{len(nameless)} photos without a photo's extension, such as {min(nameless)}: rename "
            "them, for example to .jpg"
        ))
    if not photos:
        problems.append(PhotoError(f"{folder}: no photos found"))
    return photos, problems


def _lacks_extension(path):
    """Whether a file is a photo by its first bytes, and has nothing like an extension."""
    try:
        if EXTENSION.fullmatch(path.suffix) or not path.is_file():      # a pipe would block
            return False
        with open(path, "rb") as file:
            return file.read(4).startswith(SIGNATURES)
    except OSError:
        return False
