"""Photos on disk -> one uint8 tensor -> split -> batches.

The whole set is one memory-mapped file of pixels, made once. So there is no DataLoader, there are
no workers, and memory does not grow with the set.
"""
import hashlib
import json
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import PIL
import torch

from pix2pix import color, demo, photo, sets
from pix2pix.device import keep_near, processes
from pix2pix.files import whole_file, write
from pix2pix.folders import find_photos
from pix2pix.photo import PhotoError
from pix2pix.terminal import UserError, progress, warn

CACHE = Path("data/cache")
CACHE_VERSION = 2           # raise it when a change of the code alters a photo's pixels
MIN_COLORFULNESS = 10       # as in ColorGAN: a photo below it teaches nothing
MEASURED_AT = 256           # pixels; at every --size, the same photos are left out
NAMED_SETS = ", ".join([*sets.SETS, "demo"])


def load_photos(source, size, limit=None):
    """All usable photos of a folder, or of one of the NAMED_SETS, as squares.

    Returns
        images: uint8 (N, 3, size, size), mapped from a cache file that is made on first use
        skipped: a list of [name, reason]
        fingerprint: a digest of the pixels
        names: those of the N photos

    Skips photos that cannot be fetched or read, photos with a colorfulness under 10 at 256 pixels,
    exact duplicates, and the results of runs. `limit` keeps only the first so many, and reads no
    more than needed. Raises UserError if there is no such set, or no usable photo in it.
    """
    names, read, usual_limit, state = _list(source)
    limit = min(limit or usual_limit or len(names), len(names))
    # Everything that decides the pixels: the photos, and the code that reads them.
    inputs = json.dumps([names, state, size, limit, CACHE_VERSION, PIL.__version__])
    key = hashlib.sha256(inputs.encode()).hexdigest()[:24]
    pixels = CACHE / f"{key}.u8"
    index = CACHE / f"{key}.json"
    if not (index.exists() and pixels.exists()):
        _make_cache(pixels, index, source, names, read, size, limit)
    names, skipped, fingerprint = json.loads(index.read_text())
    length = len(names) * 3 * size**2
    if pixels.stat().st_size != length:
        raise UserError(f"{pixels} is damaged: delete it, and it will be made again")
    images = torch.from_file(str(pixels), size=length, dtype=torch.uint8)
    return images.view(-1, 3, size, size), skipped, fingerprint, names


class Photos(NamedTuple):
    """A set of photos, uint8 (N, 3, S, S), and the indices of its two parts."""
    images: torch.Tensor
    train_indices: torch.Tensor
    val_indices: torch.Tensor
    fingerprint: str


def load_split(config, device):
    """The Photos of --data, split before any training. They move to the GPU if they fit there.

    The split follows from the seed, --val and the number of photos alone. Exact duplicates are
    gone, so no photo is both trained on and validated on, not even in a resumed run.
    """
    images, skipped, fingerprint, names = load_photos(config.data, config.size, config.limit)
    train_indices, val_indices = split(len(images), config.val, config.seed)
    if config.repeat:
        train_indices = repeat(train_indices, names, config.repeat)
    if processes()[0] == 0:
        lines = "\n".join(f"{name}\t{reason}" for name, reason in skipped)
        write(config.out / "skipped.txt", lines.encode(errors="backslashreplace"))
        print(f"{len(train_indices)} photos to train on, {len(val_indices)} to validate on, "
              f"{len(skipped)} skipped ({config.out}/skipped.txt)")
    images = keep_near(images, device)
    return Photos(images, train_indices, val_indices.to(images.device), fingerprint)


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


def repeat(indices, names, folder_and_times):
    """`indices`, those of the photos in a subfolder several times: "album=7" means 7 times.

    So a few photos can weigh as much as many others. Raises UserError if the subfolder has none.
    """
    folder, _, times = folder_and_times.rpartition("=")
    folder = folder.rstrip("/")
    is_inside = torch.tensor([str(names[index]).startswith(f"{folder}/") for index in indices])
    if not is_inside.any():
        raise UserError(f"--repeat {folder_and_times}: no photo to train on is in {folder}/")
    return torch.cat((indices[~is_inside], indices[is_inside].repeat(int(times))))


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


def batches(photos, config, epoch, device, label):
    """Yield each step of an epoch: its number since the start of training, from 1; the photos of
    this process, uint8 (B, 3, S, S), on the device; and a torch.Generator for all that is random.

    All randomness derives from (seed, epoch), and the step's also from (rank, step), so a resumed
    run reproduces an uninterrupted one.
    """
    rank, world = processes()
    seed = (config.seed, epoch)
    order, mirrored = shuffle(photos.train_indices, config.batch_size, seed, rank, world)
    steps = len(order)
    pictures = order.shape[1] * world
    chosen = zip(order.to(photos.images.device), mirrored.to(device))
    for step, choice in enumerate(progress(chosen, steps, label, pictures), 1):
        rng = seeded((*seed, rank, step), device)
        yield (epoch - 1) * steps + step, gather(photos.images, device, *choice), rng


def seeded(seed, device="cpu"):
    """A torch.Generator for a number, a text or a tuple of them: neighbors are unrelated."""
    return torch.Generator(device).manual_seed(random.Random(str(seed)).getrandbits(63))


def _list(source):
    """The photos of a folder or a named set.

    Returns their names in order, a function that reads the photo of a name, how many usable ones to
    take without a limit (0 is all), and a JSON value that differs if photos of these names differ.
    Raises UserError if there are no photos.
    """
    folder = Path(source).resolve()
    if folder.is_dir():
        # Samples in runs/ would become training photos.
        paths, problems = find_photos(folder, Path("runs").resolve())
        if not paths:
            raise UserError("; ".join(map(str, problems)))
        for problem in problems:
            warn(source, problem)
        names = [path.relative_to(folder).as_posix() for path in paths]
        state = [str(folder), [_version(path) for path in paths]]
        return names, lambda name: photo.read_photo(folder / name), 0, state
    if source in sets.SETS:
        photo_set = sets.SETS[source]
        names, read = sets.download(photo_set, Path("data", source))
        return names, read, photo_set.usual_limit, source
    if source == "demo":
        return list(range(demo.COUNT)), demo.scene, 0, source
    raise UserError(f"--data {source}: no such folder, and no set of that name ({NAMED_SETS})")


def _version(path):
    """What differs if the file does, even if its size and its dates are the same."""
    try:
        stat = path.stat()
    except OSError:                     # a broken link, which read_photo will refuse
        return None
    # No program can set ctime. On Windows, where it is the time of creation, st_ino changes.
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def _make_cache(pixels, index, source, names, read, size, limit):
    """Write the pixels of the first `limit` usable photos, then the index, which commits them."""
    kept = {}                           # digest of the pixels -> name
    skipped = []                        # (name, reason)
    usable = _usable(names, read, size, limit, kept, skipped)
    with whole_file(pixels) as file:
        for data in progress(usable, limit, "photo"):
            file.write(data)
        if not kept:
            raise UserError(
                f"{source}: none of {len(names)} photos can be used ({count_reasons(skipped)})"
            )
    fingerprint = hashlib.sha256(b"".join(kept)).hexdigest()
    write(index, json.dumps([list(kept.values()), skipped, fingerprint]).encode())


def _usable(names, read, size, limit, kept, skipped):
    """Yield the pixels of the first `limit` usable photos, as bytes, and fill `kept` and `skipped`.

    Reads in parallel, a few at a time, and never more than needed.
    """
    waiting = iter(names)
    with ThreadPoolExecutor() as pool:
        while part := list(islice(waiting, min(64, limit - len(kept)))):
            results = pool.map(lambda name: _pixels(name, read, size), part)
            for name, (data, reason) in zip(part, results):
                digest = hashlib.sha256(data).digest()
                if digest in kept:
                    reason = f"a duplicate of {kept[digest]}"
                if reason:
                    skipped.append((name, reason))
                else:
                    kept[digest] = name
                    yield data


def count_reasons(skipped):
    """How many photos were skipped for the most common reasons: "gray, or nearly gray: 5; ..."."""
    # A PhotoError starts with the path of its photo.
    counts = Counter(reason.partition(": ")[2] or reason for _, reason in skipped)
    return "; ".join(f"{reason}: {count}" for reason, count in counts.most_common(4))


def _pixels(name, read, size):
    """The photo's bytes, 3 x size x size, and ""; or b"" and the reason to skip it."""
    try:
        picture = read(name)
    except PhotoError as error:
        return b"", str(error)
    shrunk = {side: photo.shrink(picture, (side, side)) for side in {MEASURED_AT, size}}
    if color.colorfulness(shrunk[MEASURED_AT][None]) < MIN_COLORFULNESS:
        return b"", "gray, or nearly gray"
    return shrunk[size].contiguous().numpy().tobytes(), ""
