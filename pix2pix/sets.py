"""Known sets by name: a list of image addresses, and photos that are fetched into data/<name>/ when first read."""
import hashlib
import json
import re
import time
from pathlib import Path
from urllib import parse, request

from pix2pix.photo import PhotoError, read_photo
from pix2pix.runtime import require, write

COMMIT = "08412e7a2ee7a05cfc0e68ff91b7b7355ff715b4"
GROUPS_TREE = f"https://api.github.com/repos/subhanmahmood/group-photos/git/trees/{COMMIT}?recursive=1"
COCO_ARCHIVE = "https://s3.amazonaws.com/images.cocodataset.org/zips/train2017.zip"
ADDRESS = {"groups": f"https://raw.githubusercontent.com/subhanmahmood/group-photos/{COMMIT}/",
           "coco": "https://s3.amazonaws.com/images.cocodataset.org/"}
MOST = {"groups": 5080, "coco": 7750}              # photos to use
ABOUT = {"groups": "Images of Groups: 2,823 of its 5,080 photos, about 0.6 GB, for non-commercial research; cite "
         "Gallagher and Chen, CVPR 2009. All: http://chenlab.ece.cornell.edu/people/Andy/ImagesOfGroups.html",
         "coco": "COCO train2017: 7,750 photos, 1.3 GB, each with its licence: https://cocodataset.org/#termsofuse"}
# Seconds to wait for the next byte (for a whole file 30 times that), and before each other try:
TIMEOUT, PAUSES = 10, (1, 4, 16)


def download(source: str, folder: Path, listing: Path):
    """A set in its folder: names, as keys, in the order of their use; read(name), which fetches what is not there; and
    the most photos to use.

    What has come stays, and is not fetched again. Raises UserError where an address fails for good; read(name) gives
    what photo.read_photo does, and PhotoError if that photo is gone for good.
    """
    if not listing.exists():
        print(ABOUT[source], flush=True)
        # An archive lists its names at its end: COCO's, of 19 GB, in the last 10 MB.
        names = _fetch(GROUPS_TREE, _tree) if source == "groups" else _fetch(COCO_ARCHIVE, _archive, tail=2**24)
        write(listing, json.dumps(names).encode())

    def read(name):
        path = folder / name
        require(path.resolve().is_relative_to(folder.resolve()), f"{name}: outside {folder}", PhotoError)
        if not path.exists():                      # what cannot be read does not get its name
            _fetch(ADDRESS[source] + parse.quote(name), lambda content: write(path, content, check=read_photo))
        return read_photo(path)

    return dict.fromkeys(json.loads(listing.read_text())), read, MOST[source]


def _tree(content):
    """Photos in GitHub's listing of a repository."""
    return sorted(file["path"] for file in json.loads(content)["tree"] if re.search(r"(?i)\.jpe?g$", file["path"]))


def _archive(content):
    """Photos named in the end of COCO's archive, its directory, in an order that is random but never changes."""
    names = {name.decode() for name in re.findall(rb"train2017/\d+\.jpg", content)}
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())


def _fetch(url, use, tail=None):
    """use(content) of an address, or of its last `tail` bytes; tried again where that fails."""
    ask = request.Request(url, headers={"Range": f"bytes=-{tail}"} if tail else {})
    for pause in (*PAUSES, 0):                     # 0: no other try
        start, content = time.monotonic(), bytearray()
        try:
            with request.urlopen(ask, timeout=TIMEOUT) as response:
                require(not tail or response.status == 206, "the server does not send parts of files")
                while chunk := response.read1(2**20):
                    content += chunk
                    require(time.monotonic() < start + 30 * TIMEOUT, f"not whole in {30 * TIMEOUT} seconds", OSError)
            require(len(content) == int(response.headers.get("Content-Length", len(content))), "it is cut off", OSError)
            return use(content)
        except Exception as error:                 # of the network, the server, the disk, or of what has come
            require(getattr(error, "code", None) not in (404, 410), f"{url}: {error}", PhotoError)
            require(pause, f"{url}: {error}; try again (what came stays), or get them by hand and name their folder")
        time.sleep(pause)
