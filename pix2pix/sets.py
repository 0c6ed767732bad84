"""Known sets by name: a list of image addresses, and photos that are fetched into data/<name>/ when first read."""
import hashlib
import json
import tempfile
import time
import zipfile
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
TIMEOUT = 10                                       # seconds to wait for the next byte; for a whole file 30 times that
PAUSES = (1, 4, 16)                                # seconds before another try


class Download:
    """A set in its folder: `names` in the order of their use, and read(name), which fetches what is not there.

    What has come stays, and is not fetched again. Raises UserError where an address fails for good.
    """

    def __init__(self, name: str, folder: Path, listing: Path):
        self.name, self.folder, self.sizes = name, folder, []
        if not listing.exists():
            print(ABOUT[name], flush=True)
            # The list of the names in an archive is at its end: of COCO's, the last 10 MB of 19 GB.
            names = _fetch(GROUPS_TREE, _tree) if name == "groups" else _fetch(COCO_ARCHIVE, _archive, tail=2**24)
            write(listing, json.dumps(names).encode())
        self.names = json.loads(listing.read_text())

    def __str__(self):
        return f"{self.name}, {sum(self.sizes) / 1e6:.0f} MB fetched"

    def read(self, name: str):
        """The photo, as photo.read_photo gives it; PhotoError if it is gone for good."""
        path = self.folder / name
        require(path.resolve().is_relative_to(self.folder.resolve()), f"{name}: outside {self.folder}", PhotoError)
        if not path.exists():                      # what cannot be read does not get its name
            _fetch(ADDRESS[self.name] + parse.quote(name), lambda content, _: write(path, content, check=read_photo))
            self.sizes.append(path.stat().st_size)
        return read_photo(path)


def _tree(content, _):
    """Photos in GitHub's listing of a repository."""
    names = [file["path"] for file in json.loads(content)["tree"]]
    return sorted(name for name in names if name.lower().endswith((".jpg", ".jpeg")))


def _archive(content, total):
    """Photos in an archive of `total` bytes that ends with `content`, in an order that is random but never changes."""
    with tempfile.TemporaryFile() as file:
        file.seek(total - len(content))            # a hole: zipfile reads the end alone
        file.write(content)
        names = [name for name in zipfile.ZipFile(file).namelist() if name.endswith(".jpg")]
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())


def _fetch(address, use, tail=None):
    """use(content, total size) of an address, or of its last `tail` bytes; tried again where that fails."""
    ask = request.Request(address, headers={"Range": f"bytes=-{tail}"} if tail else {})
    for pause in (*PAUSES, 0):                     # 0: no other try
        start, content = time.monotonic(), bytearray()
        try:
            with request.urlopen(ask, timeout=TIMEOUT) as response:
                require(not tail or response.status == 206, "the server does not send parts of files")
                while chunk := response.read1(2**20):
                    content += chunk
                    require(time.monotonic() < start + 30 * TIMEOUT, f"not whole in {30 * TIMEOUT} seconds", OSError)
            require(len(content) == int(response.headers.get("Content-Length", len(content))), "it is cut off", OSError)
            return use(content, int(response.headers.get("Content-Range", "/0").split("/")[1]))
        except Exception as problem:               # of the network, the server, the disk, or of what has come
            require(getattr(problem, "code", None) not in (404, 410), f"{address}: {problem}", PhotoError)
            require(pause, f"{address}: {problem}; try again (what has come stays), or get them "
                           "by hand and name their folder")
        time.sleep(pause)
