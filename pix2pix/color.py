"""sRGB <-> CIE Lab (D65) on tensors, and the scaling that the networks see.

sRGB is IEC 61966-2-1, Lab is CIE 15. Conversions work per pixel, so a photo can be converted strip
by strip.
"""
import torch

L_SCALE = 100.0                         # CIE L in [0, 100] -> [0, 1]
AB_SCALE = 128.0                        # CIE a and b in [-108, 99] -> inside [-1, 1]

# Linear sRGB -> XYZ, with the primaries of ITU-R BT.709:
RGB_TO_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227)
)
LUMINANCE = RGB_TO_XYZ[1]
XYZ_TO_RGB = torch.tensor(RGB_TO_XYZ, dtype=torch.float64).inverse().tolist()
WHITE_X, WHITE_Z = 0.95047, 1.08883     # XYZ of D65, whose Y is 1
DELTA = 6 / 29                          # CIE replaces the cube root by a line below DELTA ** 3


def rgb_to_lab(rgb):
    """sRGB (B, 3, H, W) in [0, 1] -> CIE Lab (B, 3, H, W), its L in [0, 100]."""
    X, Y, Z = _mix(RGB_TO_XYZ, _to_linear(rgb).unbind(dim=1))           # (B, H, W) each
    f_X = _lab_curve(X / WHITE_X)
    f_Y = _lab_curve(Y)
    f_Z = _lab_curve(Z / WHITE_Z)
    return torch.stack((116 * f_Y - 16, 500 * (f_X - f_Y), 200 * (f_Y - f_Z)), dim=1)


def lab_to_rgb(lab):
    """CIE Lab (B, 3, H, W) -> sRGB (B, 3, H, W) in [0, 1] of the same luminance.

    A color outside the sRGB gamut moves straight toward the gray of its luminance Y until it is
    inside. In linear RGB this preserves Y, and so L, exactly; clipping each channel would not.
    Colors inside the gamut are unchanged.
    """
    lightness, a, b = lab.unbind(dim=1)                                 # (B, H, W) each
    f_Y = (lightness + 16) / 116
    X = _lab_curve_inverse(f_Y + a / 500) * WHITE_X
    Y = _lab_curve_inverse(f_Y)
    Z = _lab_curve_inverse(f_Y - b / 200) * WHITE_Z
    linear = torch.stack(_mix(XYZ_TO_RGB, (X, Y, Z)), dim=1)            # (B, 3, H, W)

    gray = Y.clamp(0, 1).unsqueeze(1)                                   # (B, 1, H, W)
    max_channel = linear.amax(dim=1, keepdim=True)
    min_channel = linear.amin(dim=1, keepdim=True)
    room_above = (1 - gray) / (max_channel - gray).clamp(min=1e-6)
    room_below = gray / (gray - min_channel).clamp(min=1e-6)
    scale = torch.minimum(room_above, room_below).clamp(max=1)          # 1 inside the gamut
    return _to_srgb((gray + scale * (linear - gray)).clamp(0, 1))


def encode(rgb_u8):
    """uint8 sRGB (B, 3, H, W) -> L (B, 1, H, W) in [0, 1] and ab (B, 2, H, W) in [-1, 1]."""
    lab = rgb_to_lab(rgb_u8.float() / 255)
    return lab[:, :1] / L_SCALE, lab[:, 1:] / AB_SCALE


def encode_L(rgb_u8, sensitivity=None):
    """The L of `encode` alone, at a fraction of the cost: 256 levels need only 256 powers.

    `sensitivity` (B, 3) replaces the eye's response to linear R, G and B by that of a film.
    """
    levels = torch.arange(256, device=rgb_u8.device) / 255
    # MPS has no `take`, and plain indexing is slower.
    linear = _to_linear(levels).index_select(0, rgb_u8.int().flatten()).view(rgb_u8.shape)
    r, g, b = linear.split(1, dim=1)                                    # (B, 1, H, W) each
    if sensitivity is None:
        red, green, blue = LUMINANCE
    else:
        red, green, blue = sensitivity.view(-1, 3, 1, 1, 1).unbind(dim=1)
    Y = red * r + green * g + blue * b                                  # (B, 1, H, W)
    return (116 * _lab_curve(Y) - 16) / L_SCALE


def decode(L, ab):
    """L (B, 1, H, W) in [0, 1], ab (B, 2, H, W) in [-1, 1] -> uint8 sRGB (B, 3, H, W).

    Inverts `encode` exactly, for each of the 16.7 million colors.
    """
    lab = torch.cat((L * L_SCALE, ab * AB_SCALE), dim=1)
    return (lab_to_rgb(lab) * 255).round().to(torch.uint8)


def decode_gray(L):
    """L (B, 1, H, W) in [0, 1] -> uint8 sRGB (B, 3, H, W) without color."""
    return decode(L, no_color(L))


def no_color(L):
    """The gray baseline: ab (B, 2, H, W) of 0 for L (B, 1, H, W)."""
    return torch.zeros_like(L).expand(-1, 2, -1, -1)


def colorfulness(rgb_u8):
    """Hasler and Suesstrunk 2003 on 0..255: uint8 (B, 3, H, W) -> (B,). Gray is 0.

    Uses the absolute values of the two opponent channels, as published tables do.
    """
    r, g, b = rgb_u8.float().unbind(dim=1)                  # (B, H, W) each
    red_green = (r - g).abs()
    yellow_blue = ((r + g) / 2 - b).abs()
    opponents = torch.stack((red_green, yellow_blue), dim=1).flatten(2)     # (B, 2, H * W)
    spread = opponents.var(dim=2, correction=0).sum(dim=1).sqrt()
    return spread + 0.3 * opponents.mean(dim=2).norm(dim=1)


def _mix(matrix, channels):
    """The matrix times the three channels of each pixel.

    Written out, because autocast and TF32 would round a matrix product.
    """
    x, y, z = channels
    return [row[0] * x + row[1] * y + row[2] * z for row in matrix]


# Each curve is a line below a knee and a power above it. Each branch is clamped at the knee and the
# line is shifted to end at 0 there, so their sum is the curve. torch.where is slower, and its
# gradient at black is infinity times zero.

def _to_linear(srgb):
    line = (srgb.clamp(max=0.04045) - 0.04045) / 12.92
    power = ((srgb.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
    return line + power


def _to_srgb(linear):
    line = 12.92 * (linear.clamp(max=0.0031308) - 0.0031308)
    # The power 1 / 2.4: `**` takes much longer, and every pixel of a colored photo needs it.
    power = (linear.clamp(min=0.0031308).log() / 2.4).exp()
    return line + 1.055 * power - 0.055


def _lab_curve(t):
    line = (t.clamp(max=DELTA**3) - DELTA**3) / (3 * DELTA**2)
    return line + t.clamp(min=DELTA**3) ** (1 / 3)


def _lab_curve_inverse(t):
    line = 3 * DELTA**2 * (t.clamp(max=DELTA) - DELTA)
    return line + t.clamp(min=DELTA) ** 3
