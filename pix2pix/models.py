"""The networks of pix2pix (Isola et al. 2017): G predicts ab from L, D judges (L, ab) pairs."""
import torch
import torch.nn.functional as F
from torch.nn import BatchNorm2d, Conv2d, LeakyReLU, Module, ModuleList, Sequential, init
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torchvision.models import get_model

ENCODER = "resnet18"                        # any ResNet of torchvision
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Generator(Module):
    """U-Net on torchvision's ResNet18: L (B, 1, H, W) in [0, 1] -> ab (B, 2, H, W) in [-1, 1].

    All tensors are float32; H and W are multiples of 32. `pretrained` starts the encoder from
    ImageNet, and raises what torchvision raises if those weights cannot be loaded. A 256x256
    picture takes 12.7 GFLOP (2 per multiply-add).
    """

    def __init__(self, pretrained=True, encoder=ENCODER):
        super().__init__()
        self.encoder = get_model(encoder, weights="IMAGENET1K_V1" if pretrained else None)
        deepest = self.encoder.fc.in_features       # 512 in layer4; 256 in layer3; ...
        relu1 = self.encoder.conv1.out_channels     # 64
        self.feature_channels = (deepest, deepest // 2, deepest // 4, deepest // 8, relu1, 3)
        self.decoder = Decoder(self.feature_channels, 256, 128, 64, 64, 32)
        self.head = Conv2d(32, 2, 1).apply(init_weights)
        del self.encoder.avgpool, self.encoder.fc           # the classifier

    def forward(self, L):
        x = self.decoder(*self.features(L))                             # (B,  32, H,    W)
        # Under autocast, the head puts out bfloat16.
        return torch.tanh(self.head(x).float())                         # (B,   2, H,    W)

    def features(self, L):
        """The encoder's outputs that a Decoder takes, deepest first. Shapes are ResNet18's."""
        channels = [(L - mean) / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD)]
        gray = torch.cat(channels, dim=1)                               # (B,   3, H,    W)
        encoder = self.encoder
        relu1 = encoder.relu(encoder.bn1(encoder.conv1(gray)))          # (B,  64, H/2,  W/2)
        layer1 = encoder.layer1(encoder.maxpool(relu1))                 # (B,  64, H/4,  W/4)
        layer2 = encoder.layer2(layer1)                                 # (B, 128, H/8,  W/8)
        layer3 = encoder.layer3(layer2)                                 # (B, 256, H/16, W/16)
        layer4 = encoder.layer4(layer3)                                 # (B, 512, H/32, W/32)
        return layer4, layer3, layer2, layer1, relu1, gray


class Decoder(ModuleList):
    """U-Net decoder: the encoder's features, deepest first -> (B, the last of `widths`, H, W)."""

    def __init__(self, feature_channels, *widths):
        deepest, *skip_channels = feature_channels
        blocks = zip((deepest, *widths[:-1]), skip_channels, widths)
        super().__init__(UpBlock(*channels) for channels in blocks)
        self.apply(init_weights)

    def forward(self, x, *skips):
        for block, skip in zip(self, skips):
            x = block(x, skip)
        return x


class UpBlock(Module):
    """Upsample, concatenate the skip, two 3x3 convolutions: x (B, C, H, W) -> (B, out, 2 H, 2 W)"""

    def __init__(self, in_channels, skip_channels, out):
        super().__init__()
        self.conv1 = Conv2d(in_channels + skip_channels, out, 3, padding=1, bias=False)
        self.bn1 = BatchNorm2d(out)
        self.conv2 = Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(out)

    def forward(self, x, skip):
        # = self.conv1(cat(upsample(x), skip)), but training takes only two thirds of the time.
        x = upsample_cat_conv(x, skip, self.conv1.weight)               # (B, out, 2 H, 2 W)
        x = F.relu(self.bn1(x), inplace=True)
        return F.relu(self.bn2(self.conv2(x)), inplace=True)


class Discriminator(Module):
    """PatchGAN: L (B, 1, H, W), ab (B, 2, H, W) -> one logit for each 70x70 patch.

    At 256x256 there are 15x15 logits. This is the paper's 70x70 discriminator, with a stride of 2
    in the last layer, which gives the 15x15 map of the ColorGAN notebook, and with spectral
    normalization (Miyato et al. 2018) instead of BatchNorm. BatchNorm sees real and fake pictures
    in separate batches: D learned to tell the batches apart, and never settled.
    """

    def __init__(self):
        super().__init__()
        leaky = LeakyReLU(0.2, inplace=True)
        self.layers = Sequential(                           # at 256x256         receptive field
            Conv2d(3, 64, 4, stride=2, padding=1),
            leaky,                                          # (B,  64, 128, 128)    4
            Conv2d(64, 128, 4, stride=2, padding=1),
            leaky,                                          # (B, 128,  64,  64)   10
            Conv2d(128, 256, 4, stride=2, padding=1),
            leaky,                                          # (B, 256,  32,  32)   22
            Conv2d(256, 512, 4, stride=1, padding=1),
            leaky,                                          # (B, 512,  31,  31)   46
            Conv2d(512, 1, 4, stride=2, padding=1)          # (B,   1,  15,  15)   70
        ).apply(init_weights)
        for conv in self.layers[::2]:
            spectral_norm(conv)

    def forward(self, L, ab):
        # About unit variance: L is 0.45 +- 0.27, ab is 0 +- 0.1.
        inputs = ((L - 0.45) / 0.27, 8 * ab)
        return self.layers(torch.cat(inputs, dim=1)).float()


def init_weights(module):
    """pix2pix's initialization of convolutions, N(0, 0.02)."""
    if isinstance(module, Conv2d):
        init.normal_(module.weight, 0, 0.02)


def update_ema(ema, net, step):
    """Move `ema`, a moving average of `net`, toward it after the net's step number `step`."""
    # Over about 1,000 steps; over fewer at first, to forget the random weights.
    decay = min(0.999, step / (step + 9))
    update = get_ema_multi_avg_fn(decay)        # ema = decay * ema + (1 - decay) * net
    update(float_tensors(ema), float_tensors(net), None)


def float_tensors(net):
    """Weights and BatchNorm's statistics, without its counters."""
    tensors = (*net.parameters(), *net.buffers())
    return [tensor for tensor in tensors if tensor.is_floating_point()]


def upsample_cat_conv(x, skip, weight):
    """The first convolution of an UpBlock, faster: readers may skip this. It equals

        F.conv2d(torch.cat((F.interpolate(x, scale_factor=2), skip), dim=1), weight, padding=1)

    A sum of two convolutions replaces the concatenation. Nearest-neighbor upsampling is a
    transposed convolution with 2x2 ones. Joined with the 3x3 kernel, it is one with a 4x4 kernel,
    which takes 4 multiplications a pixel instead of 9, and no upsampled copy.
    """
    weight = weight.to(x.dtype)                 # bfloat16 under autocast: faster to rearrange
    below, beside = weight.split((x.shape[1], skip.shape[1]), dim=1)
    kernel = below.flip(2, 3).transpose(0, 1)                           # (in, out, 3, 3)
    kernel = F.pad(kernel, (0, 1, 0, 0)) + F.pad(kernel, (1, 0, 0, 0))  # (in, out, 3, 4)
    kernel = F.pad(kernel, (0, 0, 0, 1)) + F.pad(kernel, (0, 0, 1, 0))  # (in, out, 4, 4)
    upsampled = F.conv_transpose2d(x, kernel, stride=2, padding=1)
    return upsampled + F.conv2d(skip, beside, padding=1)
