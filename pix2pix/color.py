"""sRGB <-> CIE Lab (D65) on tensors, and the scaling that the networks see: the only file that knows CIE units.

sRGB is IEC 61966-2-1, Lab is CIE 15. All of it works pixel by pixel: on any device, on any strip of a photo.
"""
import torch
from torch import Tensor

L_SCALE = 100.0                                    # CIE L in [0, 100]  -> [0, 1]
AB_SCALE = 128.0                                   # CIE a, b in [-108, 99] over all of sRGB -> inside [-1, 1]

RGB_TO_XYZ = ((0.412453, 0.357580, 0.180423),      # linear sRGB -> XYZ, ITU-R BT.709 primaries
              (0.212671, 0.715160, 0.072169),
              (0.019334, 0.119193, 0.950227))
XYZ_TO_RGB = torch.tensor(RGB_TO_XYZ, dtype=torch.float64).inverse().tolist()
WHITE = (0.95047, 1.0, 1.08883)                    # XYZ of D65
DELTA = 6 / 29                                     # below it, CIE's cube root is continued by a straight line


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """sRGB (B, 3, H, W) in [0, 1] -> CIE Lab (B, 3, H, W), L in [0, 100]."""
    linear = _to_linear(rgb).unbind(dim=1)
    x, y, z = (_lab_curve(channel / white) for channel, white in zip(_mix(RGB_TO_XYZ, linear), WHITE))
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=1)


def lab_to_rgb(lab: Tensor) -> Tensor:
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
    keep = torch.minimum(_ratio(1 - gray, above), _ratio(gray, below))              # 1 inside the gamut
    return _to_srgb((gray + keep * (linear - gray)).clamp(0, 1))


def encode(rgb_u8: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 sRGB (B, 3, H, W) -> what the networks see: L (B, 1, H, W) in [0, 1] and ab (B, 2, H, W) in [-1, 1]."""
    lab = rgb_to_lab(rgb_u8.float() / 255)
    return lab[:, :1] / L_SCALE, lab[:, 1:] / AB_SCALE


def decode(L: Tensor, ab: Tensor) -> Tensor:
    """L (B, 1, H, W) in [0, 1] and ab (B, 2, H, W) in [-1, 1] -> uint8 sRGB (B, 3, H, W): the inverse of `encode`."""
    rgb = lab_to_rgb(torch.cat((L * L_SCALE, ab * AB_SCALE), dim=1))
    return (rgb * 255).round().to(torch.uint8)


def _mix(matrix, channels):
    """A 3x3 matrix of numbers times three channel tensors: no matrix on the device, no rounding by autocast or TF32."""
    return [row[0] * channels[0] + row[1] * channels[1] + row[2] * channels[2] for row in matrix]


def _to_linear(srgb):
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)


def _to_srgb(linear):
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


def _lab_curve(t):
    # The clamp keeps the gradient of the branch that is not taken finite: at black it would be infinity times zero.
    return torch.where(t > DELTA**3, t.clamp(min=DELTA**3) ** (1 / 3), t / (3 * DELTA**2) + 4 / 29)


def _lab_curve_inverse(t):
    return torch.where(t > DELTA, t**3, 3 * DELTA**2 * (t - 4 / 29))


def _ratio(room, needed):
    """min(1, room / needed) without a division by zero; both are >= 0 up to rounding."""
    return room / torch.maximum(needed, room).clamp(min=1e-6)
