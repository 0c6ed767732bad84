"""Artificial aging: what it does to L, what it calls a hole, and how often."""
import pytest
import torch
import torch.nn.functional as F

from pix2pix import demo
from pix2pix.color import encode
from pix2pix.damage import damage
from pix2pix.data import seeded
from pix2pix.photo import shrink
from tests.helpers import Waits


@pytest.fixture(scope="module")
def L():
    """512 pictures of 64x64: eight scenes, many times each."""
    scenes = torch.stack([shrink(demo.scene(index), 64) for index in range(8)])
    return encode(scenes)[0].repeat(64, 1, 1, 1)


@pytest.fixture(scope="module")
def aged(L):
    return damage(L, seeded(14))


def touched(L, aged):
    return (L != aged).flatten(1).any(dim=1)


@pytest.mark.parametrize("size", [(64, 64), (128, 128), (256, 256), (96, 160)])
def test_damage_keeps_the_shape_and_the_range(size):
    before = torch.rand(3, 1, *size)
    L = before.clone()
    aged, hole_mask = damage(L, seeded(14))
    assert aged.shape == hole_mask.shape == L.shape
    assert aged.dtype == torch.float32 and hole_mask.dtype == torch.bool
    assert 0 <= aged.min() and aged.max() <= 1
    assert torch.equal(L, before), "the caller's pictures stay as they are"


def test_black_and_white_stay_in_range():
    for L in (torch.zeros(64, 1, 32, 32), torch.ones(64, 1, 32, 32)):
        aged, _ = damage(L, seeded(14))
        assert 0 <= aged.min() and aged.max() <= 1


def test_the_seed_decides_everything(L):
    L = L[:64]
    first, again, other = (damage(L, seeded((0, 3, step))) for step in (1, 1, 2))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    torch.manual_seed(5)
    global_state = torch.get_rng_state()
    damage(L, seeded(14))
    assert torch.equal(torch.get_rng_state(), global_state)


def test_a_fifth_is_left_exactly_as_it_was(L, aged):
    """One in five, and a few others that no kind of damage struck (under 2 in 100)."""
    damaged, hole_mask = aged
    whole = ~touched(L, damaged)
    assert 0.15 < whole.float().mean() < 0.28
    assert not hole_mask[whole].any()


def test_what_is_lost_has_changed_most(L, aged):
    damaged, hole_mask = aged
    change = (damaged - L).abs()
    assert change[hole_mask].mean() > 3 * change[~hole_mask].mean()
    assert 0.01 < change[~hole_mask].mean() < 0.1


def test_what_is_lost_is_a_small_share(aged):
    share = aged[1].float().mean(dim=(1, 2, 3))
    assert 0.5 < (share > 0).float().mean() < 0.9, "pictures with any hole"
    assert 0.005 < share[share > 0].mean() < 0.25
    assert share.max() < 0.5


def test_fading_lowers_contrast_and_raises_blacks(L, aged):
    """Half of the worn pictures fade, 4 in 10 of all."""
    flatter = aged[0].std(dim=(2, 3)) < 0.95 * L.std(dim=(2, 3))
    assert 0.3 < flatter.float().mean() < 0.5
    black, hole_mask = damage(torch.zeros(256, 1, 64, 64), seeded(14))
    raised = torch.where(hole_mask, torch.nan, black).flatten(1).nanmedian(dim=1).values
    assert 0.35 < (raised > 0.02).float().mean() < 0.55
    assert black[raised > 0.05].std(dim=(2, 3)).min() > 0.005, "uneven"


def test_grain_is_what_a_flat_picture_gets_from_pixel_to_pixel():
    """Half of the worn pictures have one, 4 in 10 of all."""
    flat, hole_mask = damage(torch.full((256, 1, 64, 64), 0.5), seeded(14))
    steps = torch.where(hole_mask, torch.nan, flat).diff(dim=3).flatten(1)
    grain = steps.nanquantile(0.84, dim=1) / 2**0.5         # the standard deviation of each picture
    has_grain = grain > 0.004
    assert 0.3 < has_grain.float().mean() < 0.5
    assert 0.015 < grain[has_grain].mean() < 0.025 and grain.max() < 0.04


def test_dust_and_cracks_come_everywhere():
    _, hole_mask = damage(torch.zeros(512, 1, 64, 64), seeded(14))
    often = hole_mask.float().mean(dim=0)[0].unfold(0, 16, 16).unfold(1, 16, 16).mean(dim=(2, 3))
    assert 0.005 < often.min() and often.max() < 0.05


@pytest.mark.parametrize("size", [64, 128, 256])
def test_what_is_lost_in_the_middle_is_thin_at_any_size(size):
    _, hole_mask = damage(torch.zeros(64, 1, size, size), seeded(14))
    middle = hole_mask[..., size // 4 : -size // 4, size // 4 : -size // 4].float()
    core = 1 - F.max_pool2d(1 - middle, 9, stride=1)
    assert middle.mean() > 0.001 and core.sum() < 0.05 * middle.sum()


def test_cracks_are_several_pixels_wide_and_ragged():
    """Real creases are 1 to 5 pixels wide at this size."""
    _, hole_mask = damage(torch.zeros(64, 1, 256, 256), seeded(14))
    eroded = 1 - F.max_pool2d(1 - hole_mask.float(), 3, stride=1, padding=1)
    assert 0.05 < eroded.sum() / hole_mask.sum() < 0.6


def test_damage_never_waits_for_the_device():
    """On a GPU each wait would stall the queue."""
    with Waits() as waits:
        damage(torch.rand(2, 1, 32, 32), seeded(14))
    assert waits.seen == [] and len(waits.operations) > 10
    assert "aten.index.Tensor" not in waits.operations, "whose indices might come from a mask"
