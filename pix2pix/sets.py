"""A set known by name, groups: where its photos are, and how to download them."""
import json
import time
from urllib import parse, request

from pix2pix.files import write
from pix2pix.photo import PhotoError, check_photo, read_photo
from pix2pix.terminal import UserError

ABOUT = (
    "Images of Groups (Gallagher and Chen, CVPR 2009), for non-commercial research: 2,823 of 5,080 "
    "photos, 0.6 GB. All: http://chenlab.ece.cornell.edu/people/Andy/ImagesOfGroups.html"
)
COPY = "subhanmahmood/group-photos"             # on GitHub
COMMIT = "08412e7a2ee7a05cfc0e68ff91b7b7355ff715b4"
LISTING = f"https://api.github.com/repos/{COPY}/git/trees/{COMMIT}?recursive=1"
ADDRESS = f"https://raw.githubusercontent.com/{COPY}/{COMMIT}/"
TIMEOUT = 10                # seconds to wait for the next byte
PAUSES = (1, 4)             # seconds before each retry


def download_groups(folder):
    """The names of the photos in order, and a function `read`.

    read(name) downloads the photo unless the folder has it, and returns what photo.read_photo does.
    Raises UserError if a download keeps failing; read(name) raises PhotoError if the server says
    that this photo does not exist.
    """
    listing = folder / "listing.json"
    if not listing.exists():
        print(ABOUT, flush=True)
        write(listing, json.dumps(_fetch(LISTING, _names_in_tree)).encode())

    def read(name):
        path = folder / name
        if not path.exists():
            write(path, _fetch(ADDRESS + parse.quote(name), check_photo))
        return read_photo(path)

    return json.loads(listing.read_text()), read


def _names_in_tree(content):
    """The photos in GitHub's listing of a repository."""
    paths = [file["path"] for file in json.loads(content)["tree"]]
    return sorted(path for path in paths if path.lower().endswith((".jpg", ".jpeg")))


def _fetch(url, use):
    """use(content) of a URL. Retries if either fails."""
    for pause in (*PAUSES, None):
        try:
            with request.urlopen(url, None, TIMEOUT) as response:
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
