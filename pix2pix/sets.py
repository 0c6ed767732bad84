"""Known sets by name: lists of addresses, and photos that are fetched into data/<name>/."""
import hashlib
import json
import re
import time
from dataclasses import dataclass
from urllib import parse, request

from pix2pix.files import write
from pix2pix.photo import PhotoError, check_photo, read_photo
from pix2pix.terminal import UserError

TIMEOUT = 10                # seconds to wait for the next byte
TIMEOUT_FILE = 300          # and for a whole file
PAUSES = (1, 4, 16)         # seconds before each other try


@dataclass
class PhotoSet:
    """All that is known of a set: a new one is one more of these."""

    about: str              # what it is, how large, on what terms
    listing: str            # address of the list of its photos
    names: callable         # listing (bytes) -> names of photos, in the order of their use
    address: str            # of a photo, without its name
    most: int               # photos to use
    listing_tail: int = 0   # bytes of the listing to ask for, its last ones; 0: all


def _names_in_tree(content):
    """Photos in GitHub's listing of a repository."""
    paths = [file["path"] for file in json.loads(content)["tree"]]
    return sorted(path for path in paths if path.lower().endswith((".jpg", ".jpeg")))


def _names_in_archive(content):
    """Photos in COCO's archive's directory, in an order that is random but never changes."""
    names = {name.decode() for name in re.findall(rb"train2017/\d+\.jpg", content)}
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())


GROUPS_COPY = "subhanmahmood/group-photos"
GROUPS_COMMIT = "08412e7a2ee7a05cfc0e68ff91b7b7355ff715b4"
COCO = "https://s3.amazonaws.com/images.cocodataset.org/"
SETS = {
    "groups": PhotoSet(
        about="Images of Groups: 2,823 of its 5,080 photos, about 0.6 GB, for non-commercial "
        "research; cite Gallagher and Chen, CVPR 2009. All: "
        "http://chenlab.ece.cornell.edu/people/Andy/ImagesOfGroups.html",
        listing=f"https://api.github.com/repos/{GROUPS_COPY}/git/trees/{GROUPS_COMMIT}?recursive=1",
        names=_names_in_tree,
        address=f"https://raw.githubusercontent.com/{GROUPS_COPY}/{GROUPS_COMMIT}/",
        most=5080                       # all, and so whatever a copy holds
    ),
    "coco": PhotoSet(
        about="COCO train2017: 7,750 photos, 1.3 GB, each with its licence: "
        "https://cocodataset.org/#termsofuse",
        listing=f"{COCO}zips/train2017.zip",
        listing_tail=2**24,             # the archive, of 19 GB, lists its names in the last 10 MB
        names=_names_in_archive,
        address=COCO,
        most=7750
    )
}


def download(photo_set, folder):
    """A set in its folder: names, read and the most photos to use.

    names are in the order of their use; read(name) fetches what is not there, and gives what
    photo.read_photo does. What has come stays, and is not fetched again. Raises UserError where an
    address fails for good; read(name) raises PhotoError if that photo is gone for good.
    """
    listing = folder / "listing.json"
    if not listing.exists():
        print(photo_set.about, flush=True)
        names = _fetch(photo_set.listing, photo_set.names, photo_set.listing_tail)
        write(listing, json.dumps(names).encode())

    def read(name):
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise PhotoError(f"{name}: outside {folder}")
        if not path.exists():
            write(path, _fetch(photo_set.address + parse.quote(name), check_photo))
        return read_photo(path)

    return json.loads(listing.read_text()), read, photo_set.most


def _fetch(url, use, tail=None):
    """use(content) of an address, or of its last `tail` bytes; tried again where either fails."""
    for pause in (*PAUSES, None):
        try:
            return use(_get(url, tail))
        except Exception as error:      # of the network, the server, or of what has come
            if getattr(error, "code", None) in (404, 410):
                raise PhotoError(f"{url}: {error}")
            if pause is None:
                raise UserError(
                    f"{url}: {error}; try again (what came stays), or get them by hand "
                    "and name their folder"
                )
        time.sleep(pause)


def _get(url, tail):
    ask = request.Request(url, headers={"Range": f"bytes=-{tail}"} if tail else {})
    content = bytearray()
    start = time.monotonic()
    with request.urlopen(ask, timeout=TIMEOUT) as response:
        if tail and response.status != 206:
            raise OSError("the server does not send parts of files")
        while chunk := response.read1(2**20):
            content += chunk
            if time.monotonic() > start + TIMEOUT_FILE:
                raise OSError(f"not whole in {TIMEOUT_FILE} seconds")
        promised = response.headers.get("Content-Length")
    if promised and len(content) != int(promised):
        raise OSError("it is cut off")
    return bytes(content)
