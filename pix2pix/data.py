"""Photos on disk -> one uint8 tensor -> split -> batches. No Lab and no device here.

The whole set is one memory-mapped file of pixels, made once: no loader, no workers, no memory that grows with it.
"""
import hashlib
import json
import math
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pix2pix import demo, metrics, photo, runtime

CACHE = Path("data/cache")
GRAY = 10                                          # a colorfulness below this teaches nothing (as in the reference)


def load_photos(source: str, size: int, limit: int | None = None) -> tuple[Tensor, list, str]:
    """All usable photos of a folder, or of the set "demo", squashed to size x size pixels.

    Returns images, uint8 (N, 3, size, size), mapped from a cache file that is made on first use; skipped, a list of
    [name, reason]; and identity, a digest of the pixels. Left out are unreadable files, photos with a colorfulness
    under 10 and exact duplicates. `limit` takes only the first so many. Raises UserError where there is no such set, or
    no usable photo in it.
    """
    names, stamps, read = _list(source)
    code = [Path(module.__file__).read_text() for module in (demo, metrics, photo, sys.modules[__name__])]
    key = hashlib.sha256(json.dumps([stamps, size, limit, code, photo.Image.__version__]).encode()).hexdigest()[:24]
    pixels, index = CACHE / f"{key}.u8", CACHE / f"{key}.json"
    if not (index.exists() and pixels.exists()):
        _prepare(names, read, size, limit, pixels, index)
    facts = json.loads(index.read_text())
    if not facts["count"]:
        raise runtime.UserError(f"{source} has no photo that can be used of {len(names)}: {dict(facts['skipped'][:1])}")
    shape = facts["count"], 3, size, size
    if pixels.stat().st_size != math.prod(shape):  # mapped, a short file would be a crash and not an error
        raise runtime.UserError(f"{pixels} is damaged: delete it, it will be made again")
    images = torch.from_file(str(pixels), size=math.prod(shape), dtype=torch.uint8).view(shape)
    return images, facts["skipped"], facts["identity"]


def split(n: int, val: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the photos to train on and of `val` held-out ones: disjoint, the same for the same arguments."""
    if not 1 <= val <= n // 5:
        raise runtime.UserError(f"--val {val} does not fit {n} photos: hold out 1 or more, at most a fifth, {n // 5}")
    order = torch.randperm(n, generator=_generator((seed, 0)))
    return order[val:].sort().values, order[:val].sort().values


def batches(images: Tensor, indices: Tensor, batch_size: int, seed=None, rank: int = 0, world: int = 1):
    """Yield uint8 batches (B, 3, S, S) of images[indices], this rank's part of them.

    With a seed, a number or several such as (seed, epoch): shuffled, mirrored at random, a last short batch dropped,
    and a set smaller than one batch is one batch. Without one: in order and complete.
    """
    batch_size, mirror = max(1, min(batch_size, len(indices) // world)), torch.zeros(len(indices), dtype=torch.bool)
    step = batch_size * world
    if seed is not None:
        generator = _generator(seed)
        indices = indices[torch.randperm(len(indices), generator=generator)][: len(indices) // step * step]
        mirror = torch.rand(len(indices), generator=generator) < 0.5
    for start in range(rank * batch_size, len(indices), step):
        part = slice(start, start + batch_size)
        batch = images[indices[part]]
        batch[mirror[part]] = batch[mirror[part]].flip(-1)
        yield batch


def _generator(seed) -> torch.Generator:
    """Mixed, so that neighbouring seeds and epochs share nothing."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]))


def _list(source):
    """Names in sorted order, what tells that one of them changed, and the function that reads one."""
    folder = Path(source)
    if folder.is_dir():
        paths = [path for path in photo.find_photos(folder)[0] if path.exists()]
        names = [path.relative_to(folder).as_posix() for path in paths]
        stamps = [(name, path.stat().st_size, path.stat().st_mtime_ns) for name, path in zip(names, paths)]
        return names, stamps, lambda name: photo.read_photo(folder / name)
    if source == "demo":
        return [f"{index:03}" for index in range(demo.COUNT)], "demo", lambda name: demo.scene(int(name))
    raise runtime.UserError(f"--data {source}: no such folder, and no set of that name")


def _prepare(names, read, size, limit, pixels, index):
    """Write the pixels, then the index that makes them valid: an interruption in between leaves nothing that counts."""
    CACHE.mkdir(parents=True, exist_ok=True)
    kept, skipped = {}, []                         # digest -> name, in order; (name, reason)
    with runtime.whole_file(pixels) as file:
        for name, data, reason in runtime.progress(_read_all(names, read, size), len(names), "preparing", "photos"):
            digest = hashlib.sha256(data or b"").digest()
            if reason or digest in kept:
                skipped.append((name, reason or f"the same picture as {kept[digest]}"))
                continue
            kept[digest] = name
            file.write(data)
            if len(kept) == limit:
                break
    identity = hashlib.sha256(b"".join(kept)).hexdigest()
    with runtime.whole_file(index) as file:
        file.write(json.dumps({"count": len(kept), "skipped": skipped, "identity": identity}).encode())


def _read_all(names, read, size):
    """Yield (name, pixels, None) or (name, None, reason), in order, decoded in parallel with few in memory at once."""

    def read_one(name):
        try:
            rgb = photo.shrink(read(name), size)
        except photo.PhotoError as error:
            return name, None, str(error)
        if metrics.colorfulness(rgb[None]) < GRAY:
            return name, None, "gray, or nearly"
        return name, rgb.contiguous().numpy().tobytes(), None

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(names), 64):
            yield from pool.map(read_one, names[start : start + 64])
