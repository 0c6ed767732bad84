"""From photos on disk to batches: what is kept, what is left out, and what is never mixed up."""
import contextlib
import errno
import os
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL
import pytest
import torch
from PIL import Image, ImageColor, ImageDraw

from pix2pix import data, demo, photo
from pix2pix.data import (
    count_reasons, gather, load_photos, load_split, repeat, seeded, shuffle, split
)
from pix2pix.photo import read_photo, shrink
from pix2pix.terminal import UserError
from tests.helpers import (
    CPU, PROGRAMS, Waits, at_call, error_line, new_config, raising, run_python, run_train,
    save_noise, stub, watch
)


def test_a_folder_is_read_recursively_in_sorted_order(work, scenes):
    images, skipped, _, _ = load_photos(str(scenes), 32)
    paths = sorted([*scenes.rglob("*.jpg"), *scenes.rglob("*.png")])
    assert images.shape == (24, 3, 32, 32) and images.dtype == torch.uint8 and skipped == []
    for image, path in zip(images, paths, strict=True):
        assert torch.equal(image, shrink(read_photo(path), (32, 32)))


def test_gray_unreadable_and_duplicate_photos_are_left_out_with_a_reason(work):
    folder = work / "photos"
    for index in range(3):
        save_noise(folder / f"a{index}.png", 80, 60, seed=index)
    shutil.copy(folder / "a0.png", folder / "b_copy.png")
    save_noise(folder / "c_gray.png", 80, 60, channels=1)
    (folder / "d_text.jpg").write_text("no picture")
    (folder / "notes.txt").write_text("not a picture by name: not even tried")
    images, skipped, _, _ = load_photos(str(folder), 32)
    reasons = dict(skipped)
    assert len(images) == 3 and sorted(reasons) == ["b_copy.png", "c_gray.png", "d_text.jpg"]
    assert "a0.png" in reasons["b_copy.png"]
    assert "gray" in reasons["c_gray.png"]
    assert "that cannot be read" in reasons["d_text.jpg"]


def test_a_duplicate_is_found_however_far_away_it_is(work):
    """Otherwise it could be trained on and held out."""
    for index in range(140):
        save_noise(f"photos/{index:03}.png", 16, 16, seed=index % 139)
    images, skipped, _, _ = load_photos("photos", 32)
    assert len(images) == 139 and [name for name, _ in skipped] == ["139.png"]


def test_results_among_the_photos_do_not_join_them(work):
    """Otherwise a run on --data . could not be resumed: its photos would have changed."""
    for name in ("0.png", "sub/1.png", "runs/this/samples/001.png", "runs/other/grid.png"):
        save_noise(name, 16, 16, seed=len(name))
    for source in (".", str(work), "sub/.."):
        assert len(load_photos(source, 32)[0]) == 2
    assert len(load_photos("runs/other", 32)[0]) == 1, "unless they are asked for"


def test_the_results_of_a_run_do_not_join_the_photos_wherever_they_are(work):
    for name in ("0.png", "my/run/samples/001.png", "my/run/curves.png", "my/samples/1.png"):
        save_noise(f"photos/{name}", 16, 16, seed=len(name))
    (work / "photos/my/run/checkpoint.pt").write_bytes(b"")
    assert len(load_photos("photos", 32)[0]) == 2, "samples/ without a checkpoint is a name"
    assert len(load_photos("photos/my/run/samples", 32)[0]) == 1, "unless they are asked for"


def test_photos_are_used_from_a_colorfulness_of_10_on(work):
    """That of a single color is 0.3 times its distance from gray: here 9.9, and then 10.05."""
    (work / "photos").mkdir()
    Image.new("RGB", (40, 30), (133, 133, 100)).save(work / "photos/below.png")
    Image.new("RGB", (40, 30), (134, 133, 100)).save(work / "photos/above.png")
    images, skipped, _, _ = load_photos("photos", 32)
    assert len(images) == 1 and skipped == [["below.png", "gray, or nearly gray"]]


@pytest.mark.parametrize("size", [32, 256, 512])
def test_colors_are_judged_at_256_pixels_whatever_the_size(work, size):
    """Red and green checks of one pixel, which average out in any smaller picture."""
    (work / "photos").mkdir()
    for side in (256, 512):
        red = np.indices((side, side)).sum(axis=0) % 2 == 0
        checks = np.where(red[..., None], (192, 64, 128), (64, 192, 128)).astype(np.uint8)
        Image.fromarray(checks).save(work / f"photos/{side}.png")
    images, skipped, _, _ = load_photos("photos", size)
    assert len(images) == 1 and skipped == [["512.png", "gray, or nearly gray"]]


def test_a_broken_link_is_skipped_by_name_and_does_not_cost_the_rest(work):
    save_noise("photos/a.png")
    (work / "photos/b.png").symlink_to("nowhere")
    (work / "photos/c.png").symlink_to("c.png")
    images, skipped, _, _ = load_photos("photos", 32)
    assert len(images) == 1 and [name for name, _ in skipped] == ["b.png", "c.png"]
    assert all(reason.endswith(": no such file") for _, reason in skipped)


def test_the_second_start_reads_no_photo_and_finds_the_same(work, scenes, monkeypatch):
    images, skipped, fingerprint, names = load_photos(str(scenes), 32)
    monkeypatch.setattr(photo, "read_photo", lambda path: pytest.fail("a photo was decoded again"))
    again = load_photos(str(scenes), 32)
    assert torch.equal(again[0], images) and again[1:] == (skipped, fingerprint, names)


def test_a_changed_folder_never_meets_an_old_cache(work, scenes):
    folder = work / "photos"
    shutil.copytree(scenes, folder)
    _, _, fingerprint, _ = load_photos(str(folder), 32)
    save_noise(folder / "01.jpg", 72, 60)
    _, _, changed, _ = load_photos(str(folder), 32)
    (folder / "02.jpg").unlink()
    images, _, fewer, _ = load_photos(str(folder), 32)
    assert len({fingerprint, changed, fewer}) == 3 and len(images) == 23


def test_a_photo_overwritten_by_one_of_as_many_bytes_or_the_same_date_is_read_anew(work):
    identities = []
    for seed, height, date in ((0, 30, 1000), (1, 30, 2000), (2, 31, 2000)):
        save_noise("photos/a.bmp", 40, height, seed=seed)
        os.utime("photos/a.bmp", (date, date))
        identities.append(load_photos("photos", 32)[2])
    assert len(set(identities)) == 3


def test_a_photo_overwritten_within_the_same_second_is_read_anew(work):
    identities = []
    for seed in range(2):
        save_noise("photos/a.bmp", seed=seed)               # of as many bytes
        date = 10**18 + seed * 10**8                        # nanoseconds: 0.1 s later
        os.utime("photos/a.bmp", ns=(date, date))
        identities.append(load_photos("photos", 32)[2])
    assert len(set(identities)) == 2


def test_another_folder_of_equal_names_sizes_and_dates_gets_its_own_pixels(work):
    """Archives unpacked with fixed dates, for example."""
    for seed, folder in enumerate(("first", "second")):
        save_noise(f"{folder}/a.bmp", seed=seed)
        os.utime(f"{folder}/a.bmp", (1000, 1000))
    first, second = (load_photos(folder, 32) for folder in ("first", "second"))
    assert not torch.equal(first[0], second[0]) and first[2] != second[2]


def test_a_photo_replaced_by_one_of_equal_name_size_and_date_is_read_anew(work):
    """As by `cp -p` and by `exiftool -P`."""
    identities = []
    for seed in range(2):
        save_noise("photos/a.bmp", seed=seed)
        os.utime("photos/a.bmp", (1000, 1000))
        identities.append(load_photos("photos", 32)[2])
    assert len(set(identities)) == 2


def test_on_windows_a_replaced_photo_is_told_by_its_number():
    """What is ctime elsewhere is the time of creation there, which can be kept, too."""
    versions = []
    for number in (4, 5):
        stat = SimpleNamespace(st_size=1, st_mtime_ns=2, st_ctime_ns=3, st_ino=number)
        versions.append(data._version(SimpleNamespace(stat=lambda: stat)))
    assert versions[0] != versions[1]


def test_a_moved_folder_makes_the_cache_again_and_is_the_same_set(work, scenes):
    shutil.copytree(scenes, "photos")
    images, _, fingerprint, _ = load_photos("photos", 32, limit=4)
    os.rename("photos", "moved")
    moved = load_photos("moved", 32, limit=4)
    assert torch.equal(moved[0], images) and moved[2] == fingerprint
    assert len(list(work.glob("data/cache/*.u8"))) == 2


def test_another_version_makes_the_cache_again(work, scenes, monkeypatch):
    _, _, fingerprint, _ = load_photos(str(scenes), 32, limit=3)
    monkeypatch.setattr(data, "CACHE_VERSION", data.CACHE_VERSION + 1)
    assert load_photos(str(scenes), 32, limit=3)[2] == fingerprint
    assert len(list(work.glob("data/cache/*.u8"))) == 2


def test_another_pillow_makes_the_cache_again(work, scenes, monkeypatch):
    _, _, fingerprint, _ = load_photos(str(scenes), 32, limit=3)
    monkeypatch.setattr(PIL, "__version__", PIL.__version__ + ".1")
    assert load_photos(str(scenes), 32, limit=3)[2] == fingerprint
    assert len(list(work.glob("data/cache/*.u8"))) == 2


def test_the_identity_depends_on_the_content_and_not_on_dates_and_places(work, scenes):
    _, _, fingerprint, _ = load_photos(str(scenes), 32)
    shutil.copytree(scenes, work / "copy", copy_function=shutil.copyfile)
    assert load_photos(str(work / "copy"), 32)[2] == fingerprint
    assert load_photos(str(scenes), 64)[2] != fingerprint


def test_the_identity_depends_on_the_order_too(work, scenes):
    """The order decides which photos are held out: one that moves would change sides."""
    shutil.copytree(scenes, "photos")
    _, _, fingerprint, _ = load_photos("photos", 32)
    os.rename("photos/01.jpg", "photos/zz.jpg")
    assert load_photos("photos", 32)[2] != fingerprint


@pytest.mark.parametrize("after", [0, 5, 23])
def test_an_interrupted_preparation_leaves_nothing_that_counts(work, scenes, monkeypatch, after):
    with monkeypatch.context() as patch:
        interrupt = at_call(after + 1, raising(KeyboardInterrupt))
        watch(patch, photo, "shrink", before=interrupt)
        with pytest.raises(KeyboardInterrupt):
            load_photos(str(scenes), 32)
    assert list((work / "data/cache").iterdir()) == []
    assert len(load_photos(str(scenes), 32)[0]) == 24


def test_a_damaged_cache_is_never_mapped(work, scenes):
    load_photos(str(scenes), 32)
    (pixels,) = (work / "data/cache").glob("*.u8")
    pixels.write_bytes(pixels.read_bytes()[:-1])
    with pytest.raises(UserError, match="is damaged: delete it"):
        load_photos(str(scenes), 32)
    pixels.unlink()
    assert len(load_photos(str(scenes), 32)[0]) == 24


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="RssAnon is in Linux's /proc")
def test_memory_stays_flat_with_the_number_of_photos(work):
    for index in range(120):
        save_noise(f"photos/{index}.jpg", 64, 64, seed=index)
    # glibc is told to give back each large block at once, or its leftovers would be measured.
    program = PROGRAMS / "memory_of_sets.py"
    result = run_python(program, cwd=work, MALLOC_MMAP_THRESHOLD_="65536")
    assert result.returncode == 0, result.stderr
    few, few_kib, many, many_kib = map(int, result.stdout.split())
    assert (few, many) == (40, 120)
    assert many_kib - few_kib < 0.5 * (many - few) * 3 * 256 * 256 / 1024


def test_a_limit_counts_usable_photos(work, scenes):
    shutil.copytree(scenes, "photos")
    (work / "photos/00.jpg").write_text("not a picture, and not counted")
    images, skipped, _, _ = load_photos("photos", 32, limit=6)
    all_images, *_ = load_photos(str(scenes), 32)
    assert torch.equal(images, all_images[:6]) and [name for name, _ in skipped] == ["00.jpg"]


@contextlib.contextmanager
def eager_pool():
    """A ThreadPoolExecutor that has read all that it was given before it returns any of it."""
    yield SimpleNamespace(map=lambda function, names: list(map(function, names)))


def test_at_most_64_photos_are_read_ahead(monkeypatch):
    """Otherwise all photos would be in memory if the disk is slow."""
    read = []

    def pixels(name, *_):
        read.append(name)
        return bytes([name]), ""

    monkeypatch.setattr(data, "ThreadPoolExecutor", eager_pool)
    monkeypatch.setattr(data, "_pixels", pixels)
    usable = data._usable(list(range(200)), None, 32, 200, {}, [])
    assert next(usable) == bytes([0]) and len(read) <= 64
    assert list(usable) == [bytes([name]) for name in range(1, 200)] and len(read) == 200


def test_a_full_disk_is_noticed_before_more_photos_are_read(work, monkeypatch):
    full = SimpleNamespace(write=raising(OSError(errno.ENOSPC, "No space left on device")))
    monkeypatch.setattr(data, "whole_file", lambda path: contextlib.nullcontext(full))
    monkeypatch.setattr(data, "ThreadPoolExecutor", eager_pool)
    read = stub(monkeypatch, data, "_pixels", result=(b"pixels", ""))
    with pytest.raises(OSError, match="No space left"):
        load_photos("demo", 32)
    assert len(read) <= 64


def test_a_limit_of_0_is_none(work, scenes):
    assert len(load_photos(str(scenes), 32, limit=0)[0]) == 24


def test_photos_in_formats_that_cannot_be_read_are_a_warning(work, capsys):
    save_noise("photos/a.png")
    (work / "photos/b.heic").write_bytes(b"ftypheic")
    assert len(load_photos("photos", 32)[0]) == 1
    warning = "warning: photos: 1 files in formats that cannot be read, such as b.heic\n"
    assert capsys.readouterr().err == warning


def test_missing_and_empty_folders_are_clear_errors(work):
    (work / "empty").mkdir()
    (work / "broken").mkdir()
    (work / "broken/a.jpg").write_text("text")
    for source, words in (
        ("nowhere", "no such folder"),
        ("empty", "empty: no photos found"),
        ("broken", "none of 1 photos can be used.*a kind that cannot be read"),
    ):
        with pytest.raises(UserError, match=words):
            load_photos(source, 32)


def test_a_set_without_a_usable_photo_says_how_many_were_left_out_and_why(work):
    for index in range(3):
        save_noise(f"photos/gray {index}.png", channels=1, seed=index)
    for name in ("a.jpg", "sub/b.jpg"):
        save_noise(f"photos/{name}")
        Path("photos", name).write_text("no picture")
    with pytest.raises(UserError) as caught:
        load_photos("photos", 32)
    assert str(caught.value) == (
        "photos: none of 5 photos can be used (gray, or nearly gray: 3; damaged, or of a kind "
        "that cannot be read: 2)"
    )


def test_many_reasons_are_no_long_line():
    skipped = [[name, f"/{name}: is damaged in line {name}"] for name in "abcdefgh"]
    words = count_reasons([*skipped, ["i", "gray"], ["j", "gray"]])
    assert words.startswith("gray: 2; ") and words.count("; ") == 3


def test_a_folder_of_unreadable_formats_says_so_in_one_line(work, capsys):
    (work / "photos").mkdir()
    (work / "photos/b.heic").write_bytes(b"ftypheic")
    assert run_train("photos") == 1
    message = error_line(capsys.readouterr().err)
    assert "1 files in formats that cannot be read, such as b.heic; " in message
    assert message.endswith("no photos found")


def test_a_split_is_disjoint_complete_and_decided_by_the_seed():
    train, val = split(100, 20, seed=3)
    assert len(val) == 20 and sorted([*train.tolist(), *val.tolist()]) == list(range(100))
    assert torch.equal(split(100, 20, seed=3)[1], val)
    assert not torch.equal(split(100, 20, seed=4)[1], val)
    assert split(20, 4, seed=0)[1].tolist() == [1, 10, 11, 15]  # the same on every machine


@pytest.mark.parametrize("val", [0, 21, 100])
def test_a_split_that_cannot_be_is_a_clear_error(val):
    with pytest.raises(UserError, match="at most a fifth, 20"):
        split(100, val, seed=0)


def test_a_split_needs_at_least_5_photos():
    assert [len(part) for part in split(5, 1, seed=0)] == [4, 1]
    with pytest.raises(UserError, match="--val 1 does not fit 4 photos: at least 5 photos are"):
        split(4, 1, seed=0)


NAMES = ["a.jpg", "album/b.jpg", "album/old/c.jpg", "album2/d.jpg", "album.jpg", "x/album/e.jpg"]


def test_repeat_gives_a_weight_to_the_photos_in_one_subfolder_and_to_no_other():
    indices = torch.tensor([0, 1, 2, 3, 4, 5])
    assert repeat(indices, NAMES, "album=3").tolist() == [0, 3, 4, 5, 1, 2, 1, 2, 1, 2]
    assert repeat(indices, NAMES, "album/old=2").tolist() == [0, 1, 3, 4, 5, 2, 2]
    assert repeat(indices[3:], NAMES, "x=1").tolist() == [3, 4, 5]


@pytest.mark.parametrize("folder", ["alb", "albums", "b"])
def test_repeat_names_a_subfolder_that_has_no_photos_to_train_on(folder):
    message = f"--repeat {folder}=2: no photo to train on is in {folder}/"
    with pytest.raises(UserError, match=message):
        repeat(torch.arange(6), NAMES, f"{folder}=2")


def test_repeat_never_brings_a_photo_to_train_on_that_is_validated_on(work, scenes):
    plain = new_config(data=str(scenes), size=32, val=4)
    photos = load_split(plain, CPU)
    repeated = load_split(new_config(**vars(plain) | {"repeat": "sub=3"}), CPU)
    assert torch.equal(repeated.val_indices, photos.val_indices)
    assert repeated.train_indices.unique().tolist() == photos.train_indices.tolist()
    counts = repeated.train_indices.bincount(minlength=24)[photos.train_indices]
    assert sorted(counts.unique().tolist()) == [1, 3]
    assert len(repeated.train_indices) > 20


@pytest.fixture
def numbered():
    """100 pictures of 2x2 pixels whose left column tells their number; the right column is 200."""
    images = torch.full((100, 3, 2, 2), 200, dtype=torch.uint8)
    images[..., 0] = torch.arange(100, dtype=torch.uint8).view(-1, 1, 1)
    return images


def numbers(batch):
    return batch.amin(dim=(1, 2, 3)).tolist()


def batches(images, *options):
    """The photos of one epoch, in batches."""
    return [gather(images, CPU, *batch) for batch in zip(*shuffle(*options))]


def test_gathered_photos_are_those_asked_for_in_order(numbered):
    assert numbers(gather(numbered, CPU, torch.tensor([7, 2, 2]))) == [7, 2, 2]


def test_photos_are_mirrored_where_the_mask_says_so(numbered):
    found = gather(numbered, CPU, torch.tensor([7, 2]), torch.tensor([True, False]))
    assert torch.equal(found[0], numbered[7].flip(-1)) and torch.equal(found[1], numbered[2])


def test_batches_are_shuffled_and_mirrored_and_whole(numbered):
    found = batches(numbered, torch.arange(25, 75), 16, (0, 1))
    assert [len(batch) for batch in found] == [16, 16, 16]
    order = [number for batch in found for number in numbers(batch)]
    assert len(set(order)) == 48 and set(order) <= set(range(25, 75)) and order != sorted(order)
    mirrored = torch.cat(found)[:, 0, 0, 0] == 200
    assert 10 < mirrored.sum() < 38
    again = batches(numbered, torch.arange(25, 75), 16, (0, 1))
    assert torch.equal(torch.cat(again), torch.cat(found))


def test_neighboring_seeds_and_epochs_share_nothing():
    orders = {
        seed: shuffle(torch.arange(100), 100, seed)[0].flatten().tolist()
        for seed in ((0, 1), (0, 2), (1, 0), (1, 1), 7)
    }
    assert len({tuple(order) for order in orders.values()}) == 5
    for order in orders.values():
        in_place = sum(a == b for a, b in zip(order, orders[(0, 1)]))
        assert in_place < 10 or order == orders[(0, 1)]


@pytest.mark.parametrize("seed", [5, (0, 1)])
def test_a_seed_decides_the_order_of_the_photos_and_which_are_mirrored(seed):
    images = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8)
    indices = torch.arange(1, 40, 2)
    generator = seeded(seed)
    order = indices[torch.randperm(20, generator=generator)]
    expected = images[order]
    mirrored = torch.rand(18, generator=generator) < 0.5
    expected[:18][mirrored] = expected[:18][mirrored].flip(-1)
    found = batches(images, indices, 6, seed)
    assert torch.equal(torch.cat(found), expected[:18]) and 0 < mirrored.sum() < 18


def test_photos_on_a_device_are_gathered_without_waiting_for_it():
    """On "meta", which keeps no values: reading one there raises an error."""
    meta = torch.device("meta")
    images = torch.empty(20, 3, 8, 8, dtype=torch.uint8, device=meta)
    indices = torch.empty(4, dtype=torch.int64, device=meta)
    mirrored = torch.empty(4, dtype=torch.bool, device=meta)
    with Waits() as waits:
        photos = gather(images, meta, indices, mirrored)
    assert photos.shape == (4, 3, 8, 8) and waits.seen == []


def test_photos_on_the_disk_are_mirrored_on_the_device():
    """Mirroring them before they move would take twice as long."""
    meta = torch.device("meta")
    images = torch.zeros(20, 3, 8, 8, dtype=torch.uint8)
    with Waits() as waits:
        photos = gather(images, meta, torch.arange(4), torch.empty(4, dtype=bool, device=meta))
    assert photos.is_meta and waits.seen == ["aten._to_copy.default"]


def test_a_set_smaller_than_one_batch_still_trains():
    order, mirrored = shuffle(torch.arange(3), 16, 0)
    assert order.shape == mirrored.shape == (1, 3)


def test_ranks_share_a_set_smaller_than_one_batch():
    """Each has as many as the other, or one would wait forever."""
    first, second = (shuffle(torch.arange(5), 16, 0, rank, world=2)[0] for rank in (0, 1))
    assert first.shape == second.shape == (1, 2)
    assert not set(first[0].tolist()) & set(second[0].tolist())


def test_ranks_share_a_global_batch_without_overlap():
    alone = shuffle(torch.arange(96), 16, 5)
    first, second = (shuffle(torch.arange(96), 8, 5, rank, world=2) for rank in (0, 1))
    for whole, *parts in zip(alone, first, second):
        assert torch.equal(torch.cat(parts, dim=1), whole)


def test_fewer_photos_than_processes_are_an_error():
    with pytest.raises(UserError, match="21 processes share only 20 photos: start fewer"):
        shuffle(torch.arange(20), 16, 0, rank=1, world=21)


def test_one_seed_gives_one_sequence_and_its_neighbors_give_others():
    def draw(seed):
        return torch.randint(2**62, (), generator=seeded(seed)).item()

    seeds = [0, 1, (0, 0), (0, 1), (1, 0), (0, 1, 0), "samples", ("held out", 0)]
    assert [draw(seed) for seed in seeds] == [draw(seed) for seed in seeds]
    seeds += [(0, epoch, 0, step) for epoch in range(40) for step in range(40)]
    assert len({draw(seed) for seed in seeds}) == len(seeds)


def test_demo_scenes_are_varied_deterministic_and_colorful(work):
    assert demo.COUNT == 320                            # as README.md says
    scenes = [np.asarray(demo.scene(index)) for index in range(12)]
    assert all(scene.shape == (256, 256, 3) for scene in scenes)
    assert np.array_equal(scenes[3], np.asarray(demo.scene(3)))
    for scene in scenes:
        sky = np.median(scene[0], axis=0)
        meadow = np.median(scene[-1], axis=0)
        assert sky.argmax() == 2 and meadow.argmax() == 1, "blue above, green below"
        in_the_sun = (scene == ImageColor.getrgb("#fd4")).all(axis=2)
        rows = in_the_sun.any(axis=1).nonzero()[0]
        assert len(rows) and rows.max() < 128, "and the sun in the sky"
    for index, scene in enumerate(scenes[1:]):
        assert np.abs(scene.astype(int) - scenes[index]).mean() > 5
    images, skipped, _, _ = load_photos("demo", 32)
    assert len(images) == 320 and skipped == [], "none is a copy of another"


def test_nearer_things_hide_farther_ones_in_demo_scenes(monkeypatch):
    drawn = watch(monkeypatch, ImageDraw.ImageDraw, "rectangle")
    for index in range(5):
        drawn.clear()
        demo.scene(index)
        grounds = [call["xy"][3] for call in drawn]
        assert len(grounds) >= 4 and grounds == sorted(grounds)


DIGEST_OF_SCENES = """
import hashlib
from pix2pix import demo
print(hashlib.sha256(b"".join(demo.scene(index).tobytes() for index in range(9))).hexdigest())
"""


def test_demo_scenes_are_the_same_in_every_process(work):
    """Python salts the hashes of texts in each process by itself."""
    digests = set()
    for salt in ("0", "1", "2"):
        result = run_python("-c", DIGEST_OF_SCENES, cwd=work, PYTHONHASHSEED=salt)
        assert result.returncode == 0, result.stderr
        digests.add(result.stdout)
    assert len(digests) == 1


# Some photos weigh more than others


def config_of(folder, **options):
    options = {"size": 32, "limit": 0, "val": 4, "seed": 0, "repeat": ""} | options
    return SimpleNamespace(data=str(folder), out=Path("out"), **options)


def test_repeat_trains_more_often_on_a_subfolder_and_never_on_validation_photos(work, scenes):
    plain = data.load_split(config_of(scenes), CPU)
    photos = data.load_split(config_of(scenes, repeat="sub=3"), CPU)
    *_, names = data.load_photos(str(scenes), 32)
    assert torch.equal(photos.val_indices, plain.val_indices)
    counts = Counter(photos.train_indices.tolist())
    assert counts.keys() == set(plain.train_indices.tolist())
    for index, count in counts.items():
        assert count == (3 if names[index].startswith("sub/") else 1)
    assert max(counts.values()) == 3


def test_repeat_takes_any_name_of_a_folder_and_a_slash_after_it(work, scenes):
    shutil.copytree(scenes / "sub", work / "photos/a=b")
    photos = config_of(work / "photos", val=1)
    for name in ("a=b", "a=b/"):
        photos.repeat = f"{name}=7"
        assert len(data.load_split(photos, CPU).train_indices) == 7 * 7


def test_repeat_of_a_folder_without_photos_is_an_error(work, scenes):
    with pytest.raises(UserError, match="no photo to train on is in su/"):
        data.load_split(config_of(scenes, repeat="su=3"), CPU)
