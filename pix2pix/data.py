"""Photos on disk -> one uint8 tensor -> split -> batches. No Lab here.

The whole set is one memory-mapped file of pixels, made once: no loader, no workers, no memory that
grows with it.
"""
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import PIL
import torch

from pix2pix import demo, metrics, photo, sets
from pix2pix.device import seeded
from pix2pix.files import whole_file, write
from pix2pix.photo import PhotoError
from pix2pix.terminal import UserError, progress

CACHE = Path("data/cache")
LEAST_COLORFUL = 10         # as in the reference: what is less colorful teaches nothing
JUDGED_AT = 256             # pixels; the same photos are left out at every size


def load_photos(source, size, limit=None):
    """All usable photos of a folder, or of the set "groups", "coco" or "demo", as squares.

    Returns images, uint8 (N, 3, size, size), mapped from a cache file that is made on first use;
    skipped, a list of [name, reason]; and identity, a digest of the pixels. Left out are photos
    that cannot be had or read, those with a colorfulness under 10 at 256 pixels, exact duplicates,
    and pictures in runs/, where results are. `limit` takes only the first so many, and fetches and
    reads no more than these need. Raises UserError where there is no such set, or no usable photo
    in it.
    """
    names, read, most = _list(source)
    limit = min(limit or most, most, len(names))
    # All that decides the pixels: the photos, and the code that reads them.
    modules = (__file__, demo.__file__, metrics.__file__, photo.__file__)
    code = [Path(file).read_text() for file in modules]
    decisive = json.dumps([names, size, limit, code, PIL.__version__])
    key = hashlib.sha256(decisive.encode()).hexdigest()[:24]
    pixels = CACHE / f"{key}.u8"
    index = CACHE / f"{key}.json"
    if not (index.exists() and pixels.exists()):
        _make_cache(pixels, index, source, names, read, size, limit)
    count, skipped, identity = json.loads(index.read_text())
    length = count * 3 * size**2
    if pixels.stat().st_size != length:
        raise UserError(f"{pixels} is damaged: delete it, it will be made again")
    images = torch.from_file(str(pixels), size=length, dtype=torch.uint8)
    return images.view(count, 3, size, size), skipped, identity


def split(n, val, seed):
    """Indices of the photos to train on and of `val` held-out ones.

    Disjoint, sorted, the same for the same arguments. Raises UserError for less than one or more
    than a fifth.
    """
    if not 1 <= val <= n // 5:
        raise UserError(
            f"--val {val} does not fit {n} photos: hold out 1 or more, at most a fifth, {n // 5}"
        )
    order = torch.randperm(n, generator=seeded((seed, 0)))
    return order[val:].sort().values, order[:val].sort().values


def steps_per_epoch(photos, batch_size, world):
    """How many batches `batches` yields with a seed, in each of `world` processes.

    Raises UserError where there is not a photo for each.
    """
    if photos < world:
        raise UserError(f"{world} processes have only {photos} photos to share: start fewer")
    return max(1, photos // (batch_size * world))


def batches(images, indices, batch_size, seed=None, rank=0, world=1):
    """Yield uint8 batches (B, 3, S, S) of images[indices], the part of process `rank` of `world`.

    They are where the images are. With a seed, a number or several such as (seed, epoch), they are
    shuffled, mirrored at random, and whole: a last short one is dropped, but a set smaller than one
    batch is one batch. Without one they are in order and complete.
    """
    batch_size = min(batch_size, len(indices) // world)
    mirrored = torch.zeros(len(indices), dtype=torch.bool)
    if seed is not None:
        generator = seeded(seed)
        used = steps_per_epoch(len(indices), batch_size, world) * batch_size * world
        indices = indices[torch.randperm(len(indices), generator=generator)][:used]
        mirrored = torch.rand(len(indices), generator=generator) < 0.5
    indices = indices.to(images.device)
    mirrored = mirrored.to(images.device)
    for start in range(rank * batch_size, len(indices), world * batch_size):
        part = slice(start, start + batch_size)
        batch = images.index_select(0, indices[part])
        flip = mirrored[part].view(-1, 1, 1, 1)
        yield torch.where(flip, batch.flip(-1), batch)


def _list(source):
    """Names of photos in the order of their use, how to read one, and how many to use at most.

    Names of files are the keys to what tells that a file has changed.
    """
    folder = Path(source).resolve()
    if folder.is_dir():
        stamps = {}
        # Results, if they lie among the photos, would change the set.
        for path in photo.find_photos(folder, Path("runs").resolve()):
            if path.exists():                       # not a link to nowhere
                stat = path.stat()
                stamps[path.relative_to(folder).as_posix()] = (stat.st_size, stat.st_mtime_ns)
        return stamps, lambda name: photo.read_photo(folder / name), len(stamps)
    if source in sets.SETS:
        return sets.download(sets.SETS[source], Path("data", source))
    if source == "demo":
        return list(range(demo.COUNT)), demo.scene, demo.COUNT
    raise UserError(f"--data {source}: no such folder, and no set of that name")


def _make_cache(pixels, index, source, names, read, size, limit):
    """Write the pixels of the first `limit` usable photos, then the index: now they are valid."""
    kept = {}                   # digest of the pixels -> name
    skipped = []                # (name, reason)
    with whole_file(pixels) as file:
        usable = _usable(names, read, size, limit, kept, skipped)
        for data in progress(usable, limit, f"{source}: photo"):
            file.write(data)
        if not kept:
            raise UserError(f"{source} has no photo that can be used of {len(names)} {skipped[:1]}")
    identity = hashlib.sha256(b"".join(kept)).hexdigest()
    write(index, json.dumps([len(kept), skipped, identity]).encode())


def _usable(names, read, size, limit, kept, skipped):
    """Yield the pixels of the first `limit` usable photos, and note all in `kept` or `skipped`.

    They are read in parallel, few in memory at once, none in vain.
    """
    waiting = iter(names)
    with ThreadPoolExecutor() as pool:
        while part := list(islice(waiting, min(64, limit - len(kept)))):
            results = pool.map(lambda name: _pixels(name, read, size), part)
            for name, (data, reason) in zip(part, results):
                digest = hashlib.sha256(data or b"").digest()
                if digest in kept:
                    reason = f"the same picture as {kept[digest]}"
                if reason:
                    skipped.append((name, reason))
                else:
                    kept[digest] = name
                    yield data


def _pixels(name, read, size):
    """The photo's bytes, 3 x size x size, or None, and why it is left out."""
    try:
        picture = read(name)
    except PhotoError as error:
        return None, str(error)
    shrunk = {side: photo.shrink(picture, side) for side in {JUDGED_AT, size}}
    if metrics.colorfulness(shrunk[JUDGED_AT][None]) < LEAST_COLORFUL:
        return None, "gray, or nearly"
    return shrunk[size].contiguous().numpy().tobytes(), None
