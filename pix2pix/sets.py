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
PAUSES = (0, 1, 4)          # seconds before each try


@dataclass
class PhotoSet:
    """Everything there is to know about a set. To add one, add a record to SETS."""

    terms: str              # what it is, its size, its license: printed before the download
    listing: str            # URL of the list of its photos
    names: callable         # content of that list (bytes) -> names of photos, in order
    address: str            # URL of a photo, without its name
    listing_tail: int = 0   # the list is in the last so many bytes; 0: it is all of the content
    usual_limit: int = 0    # how many usable photos to take without --limit; 0: all


def _names_in_tree(content):
    """The photos in GitHub's listing of a repository."""
    paths = [file["path"] for file in json.loads(content)["tree"]]
    return sorted(path for path in paths if path.lower().endswith((".jpg", ".jpeg")))


def _names_in_archive(content):
    """The photos in the directory of COCO's archive, in a random order that never changes."""
    names = {name.decode() for name in re.findall(rb"train2017/\d+\.jpg", content)}
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())


GROUPS = "subhanmahmood/group-photos"                       # on GitHub
GROUPS_COMMIT = "08412e7a2ee7a05cfc0e68ff91b7b7355ff715b4"
COCO = "https://s3.amazonaws.com/images.cocodataset.org/"
SETS = {
    "groups": PhotoSet(
        terms="Images of Groups (Gallagher and Chen, CVPR 2009), for non-commercial research: "
        "2,823 of 5,080 photos, 0.6 GB. All: "
        "http://chenlab.ece.cornell.edu/people/Andy/ImagesOfGroups.html",
        listing=f"https://api.github.com/repos/{GROUPS}/git/trees/{GROUPS_COMMIT}?recursive=1",
        names=_names_in_tree,
        address=f"https://raw.githubusercontent.com/{GROUPS}/{GROUPS_COMMIT}/"
    ),
    "coco": PhotoSet(
        terms="COCO train2017 (Lin et al., ECCV 2014): 7,750 of 118,287 photos, 1.3 GB, each with "
        "a license of its own: https://cocodataset.org/#termsofuse",
        listing=f"{COCO}zips/train2017.zip",
        names=_names_in_archive,
        address=COCO,
        listing_tail=2**24,             # of 19 GB; the names are in the last 10 MB
        usual_limit=7750                # as in ColorGAN
    )
}


def download(photo_set, folder):
    """The names of a set's photos in order, and a function `read`.

    read(name) downloads the photo unless the folder has it, and returns what photo.read_photo does.
    Raises UserError if a download keeps failing; read(name) raises PhotoError if the server says
    that this photo does not exist.
    """
    listing = folder / "listing.json"
    if not listing.exists():
        print(photo_set.terms, flush=True)
        names = _fetch(photo_set.listing, photo_set.names, photo_set.listing_tail)
        write(listing, json.dumps(names).encode())

    def read(name):
        path = folder / name
        if not path.exists():
            write(path, _fetch(photo_set.address + parse.quote(name), check_photo))
        return read_photo(path)

    return json.loads(listing.read_text()), read


def _fetch(url, use, tail=0):
    """use(content) of a URL, or of its last `tail` bytes. Tries again if either fails."""
    for pause in PAUSES:
        time.sleep(pause)
        try:
            return use(_get(url, tail))
        except Exception as error:      # from the network, the server or the content
            if getattr(error, "code", None) in (404, 410):
                raise PhotoError(f"{url}: {error}")
            reason = error
    raise UserError(
        f"{url}: {reason}; try again (what has arrived is kept), or download the photos by hand "
        "and pass their folder to --data"
    )


def _get(url, tail):
    """The content of a URL, or its last `tail` bytes. Raises OSError and HTTPException."""
    headers = {"Range": f"bytes=-{tail}"} if tail else {}
    with request.urlopen(request.Request(url, headers=headers), None, TIMEOUT) as response:
        if tail and response.status != 206:             # the whole archive would come
            raise OSError("the server does not send parts of files")
        return response.read()                          # raises if the connection ends early
