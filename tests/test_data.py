"""From photos on disk to batches: what is kept, what is left out, what is never mixed up."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pix2pix import data, demo
from pix2pix.data import batches, load_photos, split
from pix2pix.photo import read_photo, shrink
from pix2pix.runtime import UserError
from tests.conftest import ROOT, noise


def test_a_folder_is_read_recursively_in_sorted_order(work, scenes):
    images, skipped, _ = load_photos(str(scenes), 32)
    paths = sorted([*scenes.rglob("*.jpg"), *scenes.rglob("*.png")])
    assert images.shape == (24, 3, 32, 32) and images.dtype == torch.uint8 and skipped == []
    for image, path in zip(images, paths, strict=True):
        assert torch.equal(image, shrink(read_photo(path), 32))


def test_gray_unreadable_and_duplicate_photos_are_left_out_with_a_reason(work):
    folder = work / "photos"
    folder.mkdir()
    for index in range(3):
        Image.fromarray(noise(80, 60, seed=index)).save(folder / f"a{index}.png")
    shutil.copy(folder / "a0.png", folder / "b_copy.png")
    Image.fromarray(noise(80, 60, channels=1)).save(folder / "c_gray.png")
    (folder / "d_text.jpg").write_text("no picture")
    (folder / "notes.txt").write_text("not a picture by name: not even tried")
    images, skipped, _ = load_photos(str(folder), 32)
    reasons = dict(skipped)
    assert len(images) == 3 and sorted(reasons) == ["b_copy.png", "c_gray.png", "d_text.jpg"]
    assert (
        "a0.png" in reasons["b_copy.png"]
        and "gray" in reasons["c_gray.png"]
        and "cannot identify image file" in reasons["d_text.jpg"]
    )


def test_the_second_start_reads_no_photo_and_finds_the_same(work, scenes, monkeypatch):
    images, skipped, identity = load_photos(str(scenes), 32)
    monkeypatch.setattr(data.photo, "read_photo", lambda path: pytest.fail("a photo was decoded again"))
    again = load_photos(str(scenes), 32)
    assert torch.equal(again[0], images) and again[1:] == (skipped, identity)


def test_a_changed_folder_never_meets_an_old_cache(work, scenes):
    folder = work / "photos"
    shutil.copytree(scenes, folder)
    _, _, identity = load_photos(str(folder), 32)
    Image.fromarray(noise(72, 60)).save(folder / "01.jpg")
    _, _, changed = load_photos(str(folder), 32)
    (folder / "02.jpg").unlink()
    images, _, fewer = load_photos(str(folder), 32)
    assert len({identity, changed, fewer}) == 3 and len(images) == 23


def test_identity_is_of_the_content_not_of_dates_and_places(work, scenes):
    _, _, identity = load_photos(str(scenes), 32)
    shutil.copytree(scenes, work / "copy", copy_function=shutil.copyfile)
    assert load_photos(str(work / "copy"), 32)[2] == identity
    assert load_photos(str(scenes), 64)[2] != identity


@pytest.mark.parametrize("after", [0, 5, 23])
def test_an_interrupted_preparation_leaves_nothing_that_counts(work, scenes, monkeypatch, after):
    shrink_photo, calls = data.photo.shrink, []

    def interrupt(photo, size):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return shrink_photo(photo, size)

    with monkeypatch.context() as patch:
        patch.setattr(data.photo, "shrink", interrupt)
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


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="RssAnon is read from Linux's /proc")
def test_memory_stays_flat_with_the_number_of_photos(work):
    (work / "photos").mkdir()
    for index in range(260):
        Image.fromarray(noise(64, 64, seed=index)).save(work / f"photos/{index}.jpg")
    program = """
from pix2pix.data import load_photos
for limit in (60, 260):
    images, _, _ = load_photos("photos", 256, limit=limit)
    images.sum()
    print(len(images), next(line.split()[1] for line in open("/proc/self/status") if line.startswith("RssAnon")))
"""
    run = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    (few, few_kib), (many, many_kib) = [map(int, line.split()) for line in run.stdout.splitlines()]
    assert (few, many) == (60, 260)
    assert many_kib - few_kib < 0.5 * (many - few) * 3 * 256 * 256 / 1024


def test_limit_counts_usable_photos(work, scenes):
    shutil.copytree(scenes, "photos")
    (work / "photos/00.jpg").write_text("not a picture, and not counted")
    images, skipped, _ = load_photos("photos", 32, limit=6)
    all_images, *_ = load_photos(str(scenes), 32)
    assert torch.equal(images, all_images[:6]) and [name for name, _ in skipped] == ["00.jpg"]


def test_missing_and_empty_folders_are_clear_errors(work):
    (work / "empty").mkdir()
    (work / "broken").mkdir()
    (work / "broken/a.jpg").write_text("text")
    for source, words in (
        ("nowhere", "no such folder"),
        ("empty", "can be used of 0"),
        ("broken", "can be used of 1.*cannot identify"),
    ):
        with pytest.raises(UserError, match=words):
            load_photos(source, 32)


def test_split_is_disjoint_complete_and_by_seed():
    train, val = split(100, 20, seed=3)
    assert len(val) == 20 and sorted([*train.tolist(), *val.tolist()]) == list(range(100))
    assert torch.equal(split(100, 20, seed=3)[1], val) and not torch.equal(split(100, 20, seed=4)[1], val)
    assert split(20, 4, seed=0)[1].tolist() == [7, 9, 11, 15]  # the same on every machine


@pytest.mark.parametrize("val", [0, 21, 100])
def test_a_split_that_cannot_be_is_a_clear_error(val):
    with pytest.raises(UserError, match="at most a fifth, 20"):
        split(100, val, seed=0)


@pytest.fixture
def numbered():
    """100 pictures of 2x2 pixels whose left column tells their number; the right column is 200."""
    images = torch.full((100, 3, 2, 2), 200, dtype=torch.uint8)
    images[..., 0] = torch.arange(100, dtype=torch.uint8).view(-1, 1, 1)
    return images


def numbers(batch):
    return batch.amin(dim=(1, 2, 3)).tolist()


def test_batches_without_a_seed_are_in_order_and_complete(numbered):
    found = list(batches(numbered, torch.arange(5, 30), 10))
    assert [len(batch) for batch in found] == [10, 10, 5]
    assert torch.equal(torch.cat(found), numbered[5:30])


def test_batches_with_a_seed_are_shuffled_and_mirrored_and_whole(numbered):
    found = list(batches(numbered, torch.arange(25, 75), 16, seed=(0, 1)))
    assert [len(batch) for batch in found] == [16, 16, 16]
    order = [number for batch in found for number in numbers(batch)]
    assert len(set(order)) == 48 and set(order) <= set(range(25, 75)) and order != sorted(order)
    mirrored = torch.cat(found)[:, 0, 0, 0] == 200
    assert 10 < mirrored.sum() < 38
    again = torch.cat(list(batches(numbered, torch.arange(25, 75), 16, seed=(0, 1))))
    assert torch.equal(again, torch.cat(found))


def test_neighbouring_seeds_and_epochs_share_nothing(numbered):
    orders = {
        seed: numbers(next(batches(numbered, torch.arange(100), 100, seed=seed)))
        for seed in ((0, 1), (0, 2), (1, 0), (1, 1), 7)
    }
    assert len({tuple(order) for order in orders.values()}) == 5
    for order in orders.values():
        assert sum(a == b for a, b in zip(order, orders[(0, 1)])) < 10 or order == orders[(0, 1)]


def test_a_set_smaller_than_one_batch_still_trains(numbered):
    assert [len(batch) for batch in batches(numbered, torch.arange(3), 16, seed=0)] == [3]


def test_ranks_share_a_global_batch_without_overlap(numbered):
    for seed in (None, 5):
        alone = [numbers(batch) for batch in batches(numbered, torch.arange(96), 16, seed=seed)]
        ranks = [
            [numbers(batch) for batch in batches(numbered, torch.arange(96), 8, seed=seed, rank=r, world=2)]
            for r in (0, 1)
        ]
        assert [a + b for a, b in zip(*ranks)] == alone


def test_demo_scenes_are_varied_deterministic_and_colorful(work):
    assert demo.COUNT >= 300
    scenes = [np.asarray(demo.scene(index)) for index in range(12)]
    assert all(scene.shape == (256, 256, 3) for scene in scenes)
    assert np.array_equal(scenes[3], np.asarray(demo.scene(3)))
    for index, scene in enumerate(scenes[1:]):
        assert np.abs(scene.astype(int) - scenes[index]).mean() > 5
    images, skipped, _ = load_photos("demo", 64, limit=60)
    assert len(images) == 60 and skipped == []
