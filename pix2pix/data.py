"""Photos on disk -> one uint8 tensor -> split -> batches -> what the networks see.

The whole set is one memory-mapped file of pixels, made once. So there is no DataLoader, there are
no workers, and memory does not grow with the set.
"""
import hashlib
import json
import random
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import PIL
import torch

from pix2pix import color, demo, photo, sets
from pix2pix.damage import damage
from pix2pix.files import whole_file, write
from pix2pix.folders import find_photos
from pix2pix.photo import PhotoError
from pix2pix.terminal import UserError, progress

CACHE = Path("data/cache")
CACHE_VERSION = 1           # to be raised when the code would make other pixels of a photo
MIN_COLORFULNESS = 10       # as in ColorGAN: a photo below it teaches nothing
MEASURED_AT = 256           # pixels; at every --size, the same photos are left out


def load_photos(source, size, limit=None):
    """All usable photos of a folder, or of the set "groups" or "demo", as squares.

    Returns
        images: uint8 (N, 3, size, size), mapped from a cache file that is made on first use
        skipped: a list of [name, reason]
        fingerprint: a digest of the pixels

    Skips photos that cannot be fetched or read, photos with a colorfulness under 10 at 256 pixels,
    exact duplicates, and everything in runs/, where results are. `limit` keeps only the first so
    many, and reads no more than needed. Raises UserError if there is no such set, or no usable
    photo in it.
    """
    names, read = _list(source)
    limit = min(limit or len(names), len(names))
    # Everything that decides the pixels: the photos, and the code that reads them.
    inputs = json.dumps([names, size, limit, CACHE_VERSION, PIL.__version__])
    key = hashlib.sha256(inputs.encode()).hexdigest()[:24]
    pixels = CACHE / f"{key}.u8"
    index = CACHE / f"{key}.json"
    if not (index.exists() and pixels.exists()):
        _make_cache(pixels, index, source, names, read, size, limit)
    count, skipped, fingerprint = json.loads(index.read_text())
    length = count * 3 * size**2
    if pixels.stat().st_size != length:
        raise UserError(f"{pixels} is damaged: delete it, and it will be made again")
    images = torch.from_file(str(pixels), size=length, dtype=torch.uint8)
    return images.view(count, 3, size, size), skipped, fingerprint


def split(n, val, seed):
    """Random indices of n - val training and of `val` validation photos: disjoint and sorted.

    Raises UserError unless 1 <= val <= n / 5.
    """
    if not 1 <= val <= n // 5:
        raise UserError(
            f"--val {val} does not fit {n} photos: at least 5 photos are needed, and at most a "
            f"fifth, {n // 5}, can be held out"
        )
    order = torch.randperm(n, generator=seeded((seed, 0)))
    return order[val:].sort().values, order[:val].sort().values


def shuffle(indices, batch_size, seed, rank=0, world=1):
    """The batches of one epoch for process `rank` of `world`.

    Returns the indices of photos and whether each is mirrored, (steps, B) each. Photos beyond the
    last whole batch are left out of the epoch; a set smaller than one batch is one batch. Raises
    UserError if there are fewer photos than processes.
    """
    if len(indices) < world:
        raise UserError(f"{world} processes share only {len(indices)} photos: start fewer")
    generator = seeded(seed)
    batch_size = min(batch_size, len(indices) // world)
    steps = len(indices) // (batch_size * world)
    used = steps * batch_size * world
    order = indices[torch.randperm(len(indices), generator=generator)][:used]
    mirrored = torch.rand(used, generator=generator) < 0.5
    shape = (steps, world, batch_size)
    return order.view(shape)[:, rank], mirrored.view(shape)[:, rank]


def gather(images, device, indices, mirrored=None):
    """The photos images[indices] on `device`, uint8 (B, 3, S, S), mirrored where the mask says so.

    `indices` (B,) are on the device of the images, the mask (B,) on `device`.
    """
    photos = images.index_select(0, indices).to(device)
    if mirrored is None:
        return photos
    return torch.where(mirrored.view(-1, 1, 1, 1), photos.flip(-1), photos)


def examples(photos, restore, seed):
    """uint8 photos (B, 3, H, W) -> the network's input L (B, 1, H, W), and its target.

    Normally L and the target ab (B, 2, H, W) are the photo's own. With `restore`, L is damaged, and
    the target (B, 1, H, W) is the change that repairs it. The seed decides the damage.
    """
    L, ab = color.encode(photos)
    if restore:
        aged, damaged = damage(L, seeded(seed, photos.device))
        return damaged, aged - damaged
    return L, ab


def seeded(seed, device="cpu"):
    """A torch.Generator for a number, a text or a tuple of them: neighbors are unrelated."""
    return torch.Generator(device).manual_seed(random.Random(str(seed)).getrandbits(63))


def _list(source):
    """Names of photos in order, and a function that reads one.

    For a folder, the names are the keys of a dict of sizes and modification times: the cache's key
    depends on them, too, so an edited photo gets a new cache.
    """
    folder = Path(source).resolve()
    if folder.is_dir():
        stamps = {}
        # Samples in runs/ would become training photos.
        paths, problems = find_photos(folder, Path("runs").resolve())
        for problem in problems:
            photo.warn(source, problem)
        for path in paths:
            if path.exists():                       # not a broken link
                stat = path.stat()
                stamps[path.relative_to(folder).as_posix()] = (stat.st_size, stat.st_mtime_ns)
        return stamps, lambda name: photo.read_photo(folder / name)
    if source == "groups":
        return sets.download_groups(Path("data/groups"))
    if source == "demo":
        return list(range(demo.COUNT)), demo.scene
    raise UserError(f"--data {source}: no such folder, and no set of that name")


def _make_cache(pixels, index, source, names, read, size, limit):
    """Write the pixels of the first `limit` usable photos, then the index, which commits them."""
    kept = {}                   # digest of the pixels -> name
    skipped = []                # (name, reason)
    with whole_file(pixels) as file:
        usable = _usable(names, read, size, limit, kept, skipped)
        for data in progress(usable, limit, f"{source}: photo"):
            file.write(data)
        if not kept:
            raise UserError(f"{source}: none of {len(names)} photos can be used {skipped[:1]}")
    fingerprint = hashlib.sha256(b"".join(kept)).hexdigest()
    write(index, json.dumps([len(kept), skipped, fingerprint]).encode())


def _usable(names, read, size, limit, kept, skipped):
    """Yield the pixels of the first `limit` usable photos, and list all in `kept` or `skipped`.

    Reads in parallel, a few at a time, and never more than needed.
    """
    waiting = iter(names)
    with ThreadPoolExecutor() as pool:
        while part := list(islice(waiting, min(64, limit - len(kept)))):
            results = pool.map(lambda name: _pixels(name, read, size), part)
            for name, (data, reason) in zip(part, results):
                digest = hashlib.sha256(data or b"").digest()
                if digest in kept:
                    reason = f"a duplicate of {kept[digest]}"
                if reason:
                    skipped.append((name, reason))
                else:
                    kept[digest] = name
                    yield data


def _pixels(name, read, size):
    """The photo's bytes, 3 x size x size, and None; or None and the reason to skip it."""
    try:
        picture = read(name)
    except PhotoError as error:
        return None, str(error)
    shrunk = {side: photo.shrink(picture, (side, side)) for side in {MEASURED_AT, size}}
    if color.colorfulness(shrunk[MEASURED_AT][None]) < MIN_COLORFULNESS:
        return None, "gray, or nearly gray"
    return shrunk[size].contiguous().numpy().tobytes(), None
