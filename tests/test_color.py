"""Facts about sRGB and CIE Lab."""
import pytest
import torch

from pix2pix.color import decode, decode_gray, encode, encode_L, lab_to_rgb, rgb_to_lab
from tests.helpers import Waits

PUBLISHED = {               # sRGB -> CIE Lab, D65, 2 degrees
    (1, 0, 0): (53.2406, 80.0923, 67.2028),
    (0, 1, 0): (87.7351, -86.1830, 83.1797),
    (0, 0, 1): (32.2957, 79.1856, -107.8573),
    (1, 1, 0): (97.1395, -21.5547, 94.4781),
    (0, 1, 1): (91.1133, -48.0906, -14.1263),
    (1, 0, 1): (60.3235, 98.2331, -60.8210),
    (0, 0, 0): (0, 0, 0),
    (1, 1, 1): (100, 0, 0)
}


def picture(colors, dtype=torch.float32):
    """(N, 3) -> (1, 3, 1, N)"""
    return torch.as_tensor(colors).to(dtype).T[None, :, None]


def test_encoding_gives_the_published_lab_values():
    lab = rgb_to_lab(picture(list(PUBLISHED)))
    assert (lab - picture(list(PUBLISHED.values()))).abs().max() < 0.02


def test_the_published_lab_values_decode_to_their_colors():
    rgb = lab_to_rgb(picture(list(PUBLISHED.values())))
    assert (rgb - picture(list(PUBLISHED))).abs().max() < 0.002


def test_every_gray_has_no_color():
    grays = torch.arange(256, dtype=torch.uint8).expand(1, 3, 1, 256)
    _, ab = encode(grays)
    assert ab.abs().max() * 128 < 0.01


def test_L_alone_equals_the_L_of_the_whole_encoding_bit_for_bit():
    grays = torch.arange(256, dtype=torch.uint8).expand(1, 3, 1, 256)
    generator = torch.Generator().manual_seed(0)
    colors = torch.randint(0, 256, (2, 3, 301, 203), generator=generator, dtype=torch.uint8)
    for photos in (grays, colors, colors[..., :1]):
        L, _ = encode(photos)
        assert encode_L(photos).shape == L.shape and torch.equal(encode_L(photos), L)


def test_a_gray_picture_has_three_equal_channels_and_its_own_L():
    grays = torch.arange(256, dtype=torch.uint8).expand(1, 3, 1, 256)
    assert torch.equal(decode_gray(encode_L(grays)), grays)


def test_conversions_use_nothing_that_MPS_lacks():
    """PyTorch has `take` for CPU, CUDA and XPU only."""
    photos = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    with Waits() as waits:
        decode(*encode(photos))
        encode_L(photos)
    assert "aten.take.default" not in waits.operations and len(waits.operations) > 10


def test_values_that_are_not_finite_raise_nothing():
    """Training that diverges ends with a line that says so, after its pictures are scored."""
    ab = torch.tensor([torch.nan, torch.inf, -torch.inf, 0]).view(1, 1, 2, 2).repeat(1, 2, 1, 1)
    for L in (torch.full((1, 1, 2, 2), 0.5), torch.full((1, 1, 2, 2), torch.nan)):
        assert decode(L, ab).dtype == torch.uint8


def test_each_of_the_16_7_million_colors_round_trips_exactly():
    ramp = torch.arange(256, dtype=torch.uint8)
    for reds in ramp.view(16, 16, 1, 1):
        colors = torch.stack(torch.broadcast_tensors(reds, ramp[:, None], ramp), dim=1)
        assert torch.equal(decode(*encode(colors)), colors), f"reds {reds.flatten().tolist()}"


def test_networks_see_values_within_one():
    corners = torch.cartesian_prod(*[torch.tensor([0, 255])] * 3)
    L, ab = encode(picture(corners, torch.uint8))
    assert L.shape[1] == 1 and ab.shape[1] == 2
    assert L.min() == pytest.approx(0, abs=1e-6) and L.max() == pytest.approx(1, abs=1e-6)
    assert ab.abs().max() < 1


def test_luminance_survives_any_color_however_far_out_of_gamut():
    generator = torch.Generator().manual_seed(0)
    L = torch.rand(1, 1, 1000, 1000, generator=generator)
    L[..., 0] = torch.linspace(0, 1, 1000)
    ab = (torch.rand(1, 2, 1000, 1000, generator=generator) * 255 - 128) / 128
    assert ((encode(decode(L, ab))[0] - L).abs() * 100).max() < 0.3


def test_out_of_gamut_colors_move_straight_toward_gray():
    """In linear RGB the three distances from gray shrink by one factor: the hue is kept."""
    L, a, b = 60.0, 120.0, 100.0
    y = (L + 16) / 116
    xyz = torch.tensor([0.95047 * (y + a / 500) ** 3, y**3, 1.08883 * (y - b / 200) ** 3])
    to_xyz = torch.tensor([
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227]
    ])
    wanted = torch.linalg.solve(to_xyz.double(), xyz.double()) - y**3
    rgb = lab_to_rgb(picture([[L, a, b]])).flatten().double()
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    factors = (linear - y**3) / wanted
    assert 0.2 < factors.min() and factors.max() < 0.9
    assert factors.max() - factors.min() < 0.01
    at_an_edge = pytest.approx(0, abs=1e-4)
    assert linear.min() == at_an_edge or 1 - linear.max() == at_an_edge


def test_autocast_rounds_no_color():
    """Targets and figures are computed under autocast, and bfloat16 has only 8 bits."""
    photos = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    L, ab = encode(photos)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encode(photos)[0], L) and torch.equal(encode(photos)[1], ab)
        assert torch.equal(decode(L, ab), photos)


@pytest.mark.parametrize("function", [rgb_to_lab, lab_to_rgb])
def test_gradients_are_finite_everywhere(function):
    colors = picture(list(PUBLISHED))
    values = colors if function is rgb_to_lab else rgb_to_lab(colors)
    values = torch.cat((values, values * 1.5, values * 0.01), dim=3).requires_grad_()
    function(values).square().sum().backward()
    assert values.grad.isfinite().all() and values.grad.abs().sum() > 0
