"""sRGB <-> CIE Lab (D65) on tensors, the scaling that the networks see, and metrics: all that knows CIE units.

sRGB is IEC 61966-2-1, Lab is CIE 15. All but the metrics works pixel by pixel: on any strip of a photo.
"""
import torch

L_SCALE, AB_SCALE = 100.0, 128.0                   # CIE L in [0, 100] -> [0, 1]; a, b in [-108, 99] -> inside [-1, 1]

RGB_TO_XYZ = ((0.412453, 0.357580, 0.180423),      # linear sRGB -> XYZ, ITU-R BT.709 primaries
              (0.212671, 0.715160, 0.072169),
              (0.019334, 0.119193, 0.950227))
XYZ_TO_RGB = torch.tensor(RGB_TO_XYZ, dtype=torch.float64).inverse().tolist()
WHITE = (0.95047, 1.0, 1.08883)                    # XYZ of D65
DELTA = 6 / 29                                     # below it, CIE's cube root is continued by a straight line


def rgb_to_lab(rgb: torch.Tensor) -> torch.Tensor:
    """sRGB (B, 3, H, W) in [0, 1] -> CIE Lab (B, 3, H, W), L in [0, 100]."""
    x, y, z = (_lab_curve(channel / white) for channel, white in zip(_mix(RGB_TO_XYZ, _to_linear(rgb)), WHITE))
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=1)


def lab_to_rgb(lab: torch.Tensor) -> torch.Tensor:
    """CIE Lab (B, 3, H, W) -> sRGB (B, 3, H, W) in [0, 1] of the same luminance.

    A colour outside the sRGB gamut moves straight towards the gray of its luminance Y until it is inside. In linear RGB
    that keeps Y, and so L, exactly, where clipping each channel would not. Colours inside are untouched.
    """
    L, a, b = lab.unbind(dim=1)
    y = (L + 16) / 116
    xyz = [_lab_curve_inverse(t) * white for t, white in zip((y + a / 500, y, y - b / 200), WHITE)]
    linear = torch.stack(_mix(XYZ_TO_RGB, xyz), dim=1)
    gray = xyz[1].clamp(0, 1).unsqueeze(1)
    above = linear.amax(dim=1, keepdim=True) - gray                     # how far the strongest channel leads,
    below = gray - linear.amin(dim=1, keepdim=True)                     # and the weakest lags
    room = torch.minimum((1 - gray) / above.clamp(min=1e-6), gray / below.clamp(min=1e-6))
    return _to_srgb((gray + room.clamp(max=1) * (linear - gray)).clamp(0, 1))       # 1 inside the gamut


def encode(rgb_u8: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 sRGB (B, 3, H, W) -> what the networks see: L (B, 1, H, W) in [0, 1] and ab (B, 2, H, W) in [-1, 1]."""
    lab = rgb_to_lab(rgb_u8.float() / 255)
    return lab[:, :1] / L_SCALE, lab[:, 1:] / AB_SCALE


def luminance(rgb_u8: torch.Tensor) -> torch.Tensor:
    """uint8 sRGB (B, 3, H, W) -> L (B, 1, H, W) in [0, 1] as `encode` gives it, in about half the time."""
    return (116 * _lab_curve(*_mix(RGB_TO_XYZ[1:2], _to_linear(rgb_u8.float() / 255))) - 16).unsqueeze(1) / L_SCALE


def decode(L: torch.Tensor, ab: torch.Tensor) -> torch.Tensor:
    """L (B, 1, H, W) in [0, 1] and ab (B, 2, H, W) in [-1, 1] -> uint8 sRGB (B, 3, H, W): the inverse of `encode`."""
    return (lab_to_rgb(torch.cat((L * L_SCALE, ab * AB_SCALE), dim=1)) * 255).round().to(torch.uint8)


def ab_error(ab: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Mean absolute error over a and b in CIE units, a number a photo, (B,); both (B, 2, H, W) as of `encode`."""
    return AB_SCALE * (ab - truth).abs().mean(dim=(1, 2, 3))


def psnr(picture: torch.Tensor, truth: torch.Tensor, where=1) -> torch.Tensor:
    """Peak signal-to-noise ratio in dB, (B,), of pictures (B, C, H, W) on 0..255; equal ones get 120.

    Over all pixels, or those `where` a mask (B, 1, H, W) is True: NaN in a picture without any.
    """
    square = (picture.float() - truth.float()).div(255).square()
    mean_square = (square * where).sum(dim=(1, 2, 3)) / (torch.ones_like(square) * where).sum(dim=(1, 2, 3))
    return -10 * torch.log10(mean_square.clamp(min=1e-12))


def colorfulness(rgb_u8: torch.Tensor) -> torch.Tensor:
    """Hasler and Suesstrunk 2003, on 0..255, with the absolute opponents of published tables, (B,). Gray is 0."""
    r, g, b = rgb_u8.float().unbind(dim=1)
    opponents = torch.stack((r - g, (r + g) / 2 - b)).abs().flatten(2)             # (2, B, H * W)
    return opponents.var(dim=2, correction=0).sum(dim=0).sqrt() + 0.3 * opponents.mean(dim=2).norm(dim=0)


def _mix(matrix, channels):
    """Rows of three numbers times three channel tensors: no matrix on the device, no rounding by autocast or TF32."""
    return [row[0] * channels[0] + row[1] * channels[1] + row[2] * channels[2] for row in matrix]


# Each curve is a straight line up to a knee and a power above it, and here their sum: what is clamped adds nothing.
# With torch.where, `encode` takes nearly half as long again, and the gradient at black is infinity times zero.

def _to_linear(srgb):
    """An image to three channels, as _mix takes them."""
    return ((srgb.clamp(max=0.04045) - 0.04045) / 12.92 + ((srgb.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4).unbind(1)


def _to_srgb(linear):
    return 12.92 * (linear.clamp(max=0.0031308) - 0.0031308) + 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055


def _lab_curve(t):
    return (t.clamp(max=DELTA**3) - DELTA**3) / (3 * DELTA**2) + t.clamp(min=DELTA**3) ** (1 / 3)


def _lab_curve_inverse(t):
    return 3 * DELTA**2 * (t.clamp(max=DELTA) - DELTA) + t.clamp(min=DELTA) ** 3
