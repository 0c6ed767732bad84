"""Print how many photos a small and a larger set have, and the memory that holds them, in KiB."""
from pathlib import Path

from pix2pix.data import load_photos

for limit in (40, 120):
    images, _, _, _ = load_photos("photos", 256, limit=limit)
    images.sum()
    status = Path("/proc/self/status").read_text()
    print(len(images), status.split("RssAnon:")[1].split()[0])
