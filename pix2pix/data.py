"""Photos on disk -> one uint8 tensor -> split -> batches. No Lab and no device here.

The whole set is one memory-mapped file of pixels, made once: no loader, no workers, no memory that grows with it.
"""
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import torch

from pix2pix import color, demo, photo, sets
from pix2pix.runtime import progress, require, seeded, whole_file, write


def load_photos(source: str, size: int, limit: int | None = None) -> tuple[torch.Tensor, list, str]:
    """All usable photos of a folder, or of the set "groups", "coco" or "demo", squashed to size x size pixels.

    Returns images, uint8 (N, 3, size, size), mapped from a cache file that is made on first use; skipped, a list of
    [name, reason]; and identity, a digest of the pixels. Left out are photos that cannot be had or read, those with a
    colorfulness under 10 at 256 pixels, and exact duplicates. `limit` takes only the first so many, and fetches and
    reads no more than these need. Raises UserError where there is no such set, or no usable photo in it.
    """
    names, read, most = _list(source)
    limit = min(limit or most, most, len(names))
    code = [Path(file).read_text() for file in (__file__, color.__file__, demo.__file__, photo.__file__)]
    key = hashlib.sha256(json.dumps([names, size, limit, code, photo.Image.__version__]).encode()).hexdigest()[:24]
    pixels, index = Path(f"data/cache/{key}.u8"), Path(f"data/cache/{key}.json")
    if not (index.exists() and pixels.exists()):
        kept, skipped = {}, []                     # digest -> name, in order; (name, reason)
        with whole_file(pixels) as file:
            file.writelines(progress(_usable(iter(names), read, size, limit, kept, skipped), limit, source, "photos"))
            require(kept, f"{source} has no photo that can be used of {len(names)}: {dict(skipped[:1])}")
        write(index, json.dumps([len(kept), skipped, hashlib.sha256(b"".join(kept)).hexdigest()]).encode())  # now valid
    count, skipped, identity = json.loads(index.read_text())
    require(pixels.stat().st_size == count * 3 * size**2, f"{pixels} is damaged: delete it, it will be made again")
    images = torch.from_file(str(pixels), size=count * 3 * size**2, dtype=torch.uint8)
    return images.view(count, 3, size, size), skipped, identity


def split(n: int, val: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of the photos to train on and of `val` held-out ones: disjoint, the same for the same arguments."""
    require(1 <= val <= n // 5, f"--val {val} does not fit {n} photos: hold out 1 or more, at most a fifth, {n // 5}")
    order = torch.randperm(n, generator=seeded((seed, 0)))
    return order[val:].sort().values, order[:val].sort().values


def batches(images: torch.Tensor, indices: torch.Tensor, batch_size: int, seed=None, rank: int = 0, world: int = 1):
    """Yield uint8 batches (B, 3, S, S) of images[indices], this rank's part of them.

    With a seed, a number or several such as (seed, epoch): shuffled, mirrored at random, a last short batch dropped,
    and a set smaller than one batch is one batch. Without one: in order and complete.
    """
    batch_size, mirror = max(1, min(batch_size, len(indices) // world)), torch.zeros(len(indices), dtype=torch.bool)
    step = batch_size * world
    if seed is not None:
        generator = seeded(seed)
        indices = indices[torch.randperm(len(indices), generator=generator)][: len(indices) // step * step]
        mirror = torch.rand(len(indices), generator=generator) < 0.5
    for chosen, mirrored in islice(zip(indices.split(batch_size), mirror.split(batch_size)), rank, None, world):
        batch = images[chosen]
        batch[mirrored] = batch[mirrored].flip(-1)
        yield batch


def _list(source):
    """Photos in the order of their use, with what tells that one changed; how to read one; the most to use."""
    folder = Path(source)
    if source in sets.ADDRESS and not folder.is_dir():
        folder = Path("data", source)
        listing = folder / "listing.json"          # photos without it are a person's own copy, used as it is
        if listing.exists() or not photo.find_photos(folder)[0]:
            return sets.download(source, folder, listing)
    if folder.is_dir():
        stats = {path: path.stat() for path in photo.find_photos(folder)[0] if path.exists()}
        stamps = {path.relative_to(folder).as_posix(): (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}
        return stamps, lambda name: photo.read_photo(folder / name), len(stamps)
    require(source == "demo", f"--data {source}: no such folder, and no set of that name")
    return dict.fromkeys(map(str, range(demo.COUNT))), lambda name: demo.scene(int(name)), demo.COUNT


def _usable(names, read, size, limit, kept, skipped):
    """Yield the pixels of the first `limit` usable photos, read in parallel, few in memory at once, none in vain."""

    def read_one(name):
        try:
            picture = read(name)
            shrunk = {side: photo.shrink(picture, side) for side in {256, size}}     # once, where these are the same
            # As in the reference: what is less colorful teaches nothing.
            require(color.colorfulness(shrunk[256][None]) >= 10, "gray, or nearly", photo.PhotoError)
            return shrunk[size].contiguous().numpy().tobytes(), None
        except photo.PhotoError as error:
            return None, str(error)

    with ThreadPoolExecutor() as pool:
        while part := list(islice(names, min(64, limit - len(kept)))):
            for name, (data, reason) in zip(part, pool.map(read_one, part)):
                digest = hashlib.sha256(data or b"").digest()
                if reason or digest in kept:
                    skipped.append((name, reason or f"the same picture as {kept[digest]}"))
                else:
                    kept[digest] = name
                    yield data
