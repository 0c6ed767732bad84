"""Sets known by name: where their photos are, and how to download them into data/<name>/."""
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
PAUSES = (1, 4)             # seconds before each retry


@dataclass
class PhotoSet:
    """Everything there is to know about a set. To add a set, add one of these."""

    about: str              # what it is, its size, its terms
    listing: str            # URL of the list of its photos
    names: callable         # listing (bytes) -> names of photos, in order
    address: str            # URL of a photo, without its name
    max_photos: int         # most photos to use
    listing_tail: int = 0   # last bytes of the listing to ask for; 0: all of it


def _names_in_tree(content):
    """The photos in GitHub's listing of a repository."""
    paths = [file["path"] for file in json.loads(content)["tree"]]
    return sorted(path for path in paths if path.lower().endswith((".jpg", ".jpeg")))


def _names_in_archive(content):
    """The photos in the directory of COCO's archive, in a random order that never changes."""
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
        max_photos=5080                 # all of it, so whatever the copy holds
    ),
    "coco": PhotoSet(
        about="COCO train2017: 7,750 photos, 1.3 GB, each with its own license: "
        "https://cocodataset.org/#termsofuse",
        listing=f"{COCO}zips/train2017.zip",
        listing_tail=2**24,             # the archive, of 19 GB, lists its names in the last 10 MB
        names=_names_in_archive,
        address=COCO,
        max_photos=7750
    )
}


def download(photo_set, folder):
    """The names of a set's photos in order, a function `read`, and the most photos to use.

    read(name) downloads the photo unless the folder has it, and returns what photo.read_photo does.
    Raises UserError if a download keeps failing; read(name) raises PhotoError if the server says
    that this photo does not exist.
    """
    listing = folder / "listing.json"
    if not listing.exists():
        print(photo_set.about, flush=True)
        names = _fetch(photo_set.listing, photo_set.names, photo_set.listing_tail)
        write(listing, json.dumps(names).encode())

    def read(name):
        path = folder / name
        if not path.exists():
            write(path, _fetch(photo_set.address + parse.quote(name), check_photo))
        return read_photo(path)

    return json.loads(listing.read_text()), read, photo_set.max_photos


def _fetch(url, use, tail=None):
    """use(content) of a URL, or of its last `tail` bytes. Retries if either fails."""
    headers = {"Range": f"bytes=-{tail}"} if tail else {}
    for pause in (*PAUSES, None):
        try:
            with request.urlopen(request.Request(url, headers=headers), None, TIMEOUT) as response:
                if tail and response.status != 206:
                    raise OSError("the server does not send parts of files")
                return use(response.read())             # raises if the connection ends early
        except Exception as error:      # from the network, the server or the content
            if getattr(error, "code", None) in (404, 410):
                raise PhotoError(f"{url}: {error}")
            if pause is None:
                raise UserError(
                    f"{url}: {error}; try again (what has arrived is kept), or download the "
                    "photos by hand and pass their folder to --data"
                )
        time.sleep(pause)
