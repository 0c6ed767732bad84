"""Artificial damage: what it does to L, how often, and in which sizes."""
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
    """256 pictures of 128x128: eight scenes, many times each."""
    scenes = torch.stack([shrink(demo.scene(index), (128, 128)) for index in range(8)])
    return encode(scenes)[0].repeat(32, 1, 1, 1)


@pytest.fixture(scope="module")
def both(L):
    return damage(L, seeded(14))


@pytest.fixture(scope="module")
def holes(both):
    aged, damaged = both
    return aged != damaged


@pytest.mark.parametrize("size", [(32, 32), (128, 128), (256, 256), (96, 160)])
def test_damage_keeps_the_shape_and_the_range(size):
    before = torch.rand(16, 1, *size)
    L = before.clone()
    for picture in damage(L, seeded(14)):
        assert picture.shape == L.shape and picture.dtype == torch.float32
        assert 0 <= picture.min() and picture.max() <= 1
    assert torch.equal(L, before), "the caller's pictures stay as they are"


def test_the_seed_decides_everything(L):
    L = L[:32]
    first, again, other = (damage(L, seeded((0, 3, step))) for step in (1, 1, 2))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])
    torch.manual_seed(5)
    global_state = torch.get_rng_state()
    damage(L, seeded(14))
    assert torch.equal(torch.get_rng_state(), global_state)


def test_some_pictures_have_no_holes_and_most_have_few(holes):
    """The network learns to leave undamaged photos alone."""
    share = holes.float().mean(dim=(1, 2, 3))
    assert 0.1 < (share == 0).float().mean() < 0.4
    assert 0.02 < share.mean() < 0.12
    assert share.median() < 0.05 and share.max() < 0.7


def test_a_hole_is_nearly_white(both, holes):
    """Dark holes are not drawn: with them, the network learned to erase people from streets."""
    aged, damaged = both
    lighter = (damaged - aged)[holes] > 0
    assert lighter.float().mean() > 0.85
    assert damaged[(aged - damaged).abs() > 0.5].min() > 0.5


def test_a_third_of_the_prints_fade_the_others_gain_contrast_and_half_have_grain():
    aged, _ = damage(torch.zeros(256, 1, 32, 32), seeded(14))
    raised = aged.flatten(1).median(dim=1).values
    assert 0.2 < (raised > 0.02).float().mean() < 0.4
    ramp = torch.linspace(0, 1, 64).expand(256, 1, 32, 64)
    aged, _ = damage(ramp, seeded(14))
    clipped = ((aged == 0) | (aged == 1)).float().mean(dim=(1, 2, 3))
    assert 0.45 < (clipped > 0.15).float().mean() < 0.8
    aged, _ = damage(torch.full((256, 1, 32, 32), 0.5), seeded(14))
    grain = aged.std(dim=(1, 2, 3))
    assert 0.4 < (grain > 0.001).float().mean() < 0.65
    assert 0.02 < grain.max() < 0.04


def test_holes_come_everywhere_and_most_of_all_at_the_edges(holes):
    often = holes.float().mean(dim=0)[0].unfold(0, 16, 16).unfold(1, 16, 16).mean(dim=(2, 3))
    assert 0.01 < often.min()
    assert often[1:-1, 1:-1].mean() < often.mean()


@pytest.mark.parametrize("size", [128, 256])
def test_holes_have_the_same_width_at_any_size(size):
    """Most are 2 to 20 pixels wide: some of their pixels stay if their edges go, few after 10."""
    aged, damaged = damage(torch.full((32, 1, size, size), 0.5), seeded(14))
    holes = (aged != damaged).float()

    def left(pixels):
        eroded = 1 - F.max_pool2d(1 - holes, 2 * pixels + 1, stride=1, padding=pixels)
        return (eroded.sum() / holes.sum()).item()

    assert 0.3 < left(1) < 0.8 and left(10) < 0.12


def test_damage_never_waits_for_the_device():
    """On a GPU each wait would stall the queue."""
    with Waits() as waits:
        damage(torch.rand(2, 1, 32, 32), seeded(14))
    assert waits.seen == [] and len(waits.operations) > 10
    assert "aten.index.Tensor" not in waits.operations, "whose indices might come from a mask"
