"""The two networks of pix2pix (Isola et al. 2017): G predicts the colours ab from L, D judges (L, target) pairs."""
import torch
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, resnet18

from pix2pix.runtime import UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Generator(nn.Module):
    """U-Net whose encoder is torchvision's ResNet18: L (B, 1, H, W) in [0, 1] -> ab (B, 2, H, W) in [-1, 1], float32.

    With `out_channels` 3 it repairs, too, and puts its own L, in [0, 1], before ab: (B, 3, H, W). H and W are multiples
    of 32. `pretrained` starts the encoder from ImageNet and raises UserError where those weights cannot be had. 12.6
    GFLOP (2 per multiply-add) a picture at 256x256.
    """

    def __init__(self, pretrained: bool = True, out_channels: int = 2):
        super().__init__()
        weights = ResNet18_Weights.IMAGENET1K_V1 if pretrained else None
        try:
            self.encoder = resnet18(weights=weights)
        except Exception as error:                 # no network, a proxy's page, a cut file: the way out is the same
            by_hand = f"download {weights.url} into {torch.hub.get_dir()}/checkpoints, or train with --no-pretrained"
            raise UserError(f"the ImageNet weights of ResNet18 cannot be had ({error}): {by_hand}") from error
        del self.encoder.avgpool, self.encoder.fc
        # From the depth upwards, joined by the skips: layer3, layer2, layer1, relu1, and at full size the input itself.
        channels = (512, 256, 256), (256, 128, 128), (128, 64, 64), (64, 64, 64), (64, 3, 32)
        self.decoder = nn.ModuleList([UpBlock(*three) for three in channels]).apply(init_weights)
        self.head = nn.Conv2d(32, 4 if out_channels == 3 else 2, kernel_size=1).apply(init_weights)

    def forward(self, L: Tensor) -> Tensor:
        gray = torch.cat([(L - mean) / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD)], dim=1)
        relu1 = self.encoder.relu(self.encoder.bn1(self.encoder.conv1(gray)))       # (B,  64, H/2,  W/2)
        layer1 = self.encoder.layer1(self.encoder.maxpool(relu1))                   # (B,  64, H/4,  W/4)
        layer2 = self.encoder.layer2(layer1)                                        # (B, 128, H/8,  W/8)
        layer3 = self.encoder.layer3(layer2)                                        # (B, 256, H/16, W/16)
        x = self.encoder.layer4(layer3)                                             # (B, 512, H/32, W/32)
        for up, skip in zip(self.decoder, (layer3, layer2, layer1, relu1, gray)):
            x = up(x, skip)                                                         # last: (B, 32, H, W)
        repair, ab = self.head(x).float().tensor_split((-2,), dim=1)                # float: autocast may be at work
        if not repair.shape[1]:
            return torch.tanh(ab)                                                   # (B, 2, H, W)
        share, instead = torch.sigmoid(repair).split(1, dim=1)          # of L that is lost, and what belongs there
        # In use, what it finds lost to less than a fifth, as it does when in doubt, stays exactly as it is.
        share = share if self.training else 1.25 * (share - 0.2).clamp(min=0)
        return torch.cat((L + share * (instead - L), torch.tanh(ab)), dim=1)        # (B, 3, H, W)


def complete(L: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
    """L (B, 1, H, W) and what G makes of it, its own L included or not -> L (B, 1, H, W) and ab (B, 2, H, W)."""
    return torch.cat((L, prediction), dim=1)[:, -3:].split((1, 2), dim=1)


class UpBlock(nn.Module):
    """Double the size (nearest neighbour), join the skip, two 3x3 convolutions: x (B, C, H, W) -> (B, out, 2 H, 2 W).

    Transposed convolutions with weights of their own would leave checkerboards. Convolving x and the skip apart, and
    adding up, is convolving both joined, without the copies.
    """

    def __init__(self, in_channels: int, skip_channels: int, out: int):
        super().__init__()
        self.from_below = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(in_channels, out, 3, 1, 1, bias=False))
        self.from_skip = nn.Conv2d(skip_channels, out, 3, 1, 1, bias=False)
        self.rest = nn.Sequential(nn.BatchNorm2d(out), nn.ReLU(True), *conv_bn(out, out, 3, 1, nn.ReLU(True)))
        # In one dimension: which of 3 weights of a convolution make each of the 4 weights of a transposed one.
        self.register_buffer("sums", torch.tensor(((0, 0, 1.0), (0, 1, 1), (1, 1, 0), (1, 0, 0))), persistent=False)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        # from_below(x), but without the doubled x, where 3x3 weights meet only 2x2 pixels of x: those that meet one are
        # summed, into the 4x4 weights of a transposed convolution. The same, with 4 multiplications instead of 9.
        kernel = torch.einsum("yi,xj,ocij->coyx", self.sums, self.sums, self.from_below[1].weight)
        return self.rest(nn.functional.conv_transpose2d(x, kernel, stride=2, padding=1) + self.from_skip(skip))


class Discriminator(nn.Module):
    """PatchGAN: L (B, 1, H, W) and target (B, C, H, W) -> one logit for every 70x70 patch, (B, 1, 15, 15) at 256x256.

    The paper's 70x70 discriminator, but for a stride of 2 in the last layer, which gives the reference's 15x15 map.
    """

    def __init__(self, target_channels: int = 2):
        super().__init__()
        leaky = nn.LeakyReLU(0.2, inplace=True)
        self.layers = nn.Sequential(                                                # at 256x256          field of view
            nn.Conv2d(1 + target_channels, 64, 4, 2, padding=1), leaky,             # (B,  64, 128, 128)    4
            *conv_bn(64, 128, 4, 2, leaky),                                         # (B, 128,  64,  64)   10
            *conv_bn(128, 256, 4, 2, leaky),                                        # (B, 256,  32,  32)   22
            *conv_bn(256, 512, 4, 1, leaky),                                        # (B, 512,  31,  31)   46
            nn.Conv2d(512, 1, 4, 2, padding=1))                                     # (B,   1,  15,  15)   70
        self.apply(init_weights)

    def forward(self, L: Tensor, target: Tensor) -> Tensor:
        return self.layers(torch.cat((L, target), dim=1)).float()


def conv_bn(in_channels: int, out: int, kernel: int, stride: int, activation: nn.Module) -> list[nn.Module]:
    # The bias is BatchNorm's.
    return [nn.Conv2d(in_channels, out, kernel, stride, 1, bias=False), nn.BatchNorm2d(out), activation]


def init_weights(module: nn.Module) -> None:
    """pix2pix's initialisation of convolutions, N(0, 0.02)."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0, 0.02)
