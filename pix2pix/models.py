"""The networks of pix2pix (Isola et al. 2017): G predicts ab from L, D judges (L, target) pairs."""
import torch
import torch.nn.functional as F
from torch.nn import BatchNorm2d, Conv2d, LeakyReLU, Module, ModuleList, ReLU, Sequential, init
from torch.nn.utils.parametrizations import spectral_norm
from torchvision.models import ResNet18_Weights, resnet18

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Generator(Module):
    """U-Net on torchvision's ResNet18: L (B, 1, H, W) in [0, 1] -> ab (B, 2, H, W) in [-1, 1].

    With `repairs`, a second decoder shares the encoder, and all that colors is frozen. Calling the
    network then returns the change (B, 1, H, W) that repairs L; `color` still returns ab.

    All tensors are float32; H and W are multiples of 32. `pretrained` starts the encoder from
    ImageNet, and raises what torchvision raises if those weights cannot be loaded. A 256x256
    picture takes 12.8 GFLOP (2 per multiply-add).
    """

    def __init__(self, pretrained=True, repairs=False):
        super().__init__()
        self.encoder = resnet18(weights=ResNet18_Weights.IMAGENET1K_V1 if pretrained else None)
        del self.encoder.avgpool, self.encoder.fc           # the classifier
        self.decoder = Decoder(256, 128, 64, 64, 32)
        self.head = Conv2d(32, 2, 1).apply(init_weights)
        self.repairs = repairs
        if repairs:
            self.requires_grad_(False).eval()               # so BatchNorm's statistics stay
            self.repair_decoder = Decoder(64, 64, 64, 32, 16)
            self.repair_head = Conv2d(16, 2, 1).apply(init_weights)

    def features(self, L):
        """What a decoder takes, from the deepest level up."""
        channels = [(L - mean) / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD)]
        gray = torch.cat(channels, dim=1)                               # (B,   3, H,    W)
        encoder = self.encoder
        relu1 = encoder.relu(encoder.bn1(encoder.conv1(gray)))          # (B,  64, H/2,  W/2)
        layer1 = encoder.layer1(encoder.maxpool(relu1))                 # (B,  64, H/4,  W/4)
        layer2 = encoder.layer2(layer1)                                 # (B, 128, H/8,  W/8)
        layer3 = encoder.layer3(layer2)                                 # (B, 256, H/16, W/16)
        layer4 = encoder.layer4(layer3)                                 # (B, 512, H/32, W/32)
        return layer4, layer3, layer2, layer1, relu1, gray

    def color(self, L):
        """L (B, 1, H, W) in [0, 1] -> ab (B, 2, H, W) in [-1, 1]."""
        x = self.decoder(*self.features(L))                             # (B,  32, H,    W)
        # Autocast may have made it bfloat16.
        return torch.tanh(self.head(x).float())                         # (B,   2, H,    W)

    def holes(self, L):
        """Alpha, how much of each pixel to replace, and the L to fill in: (B, 2, H, W), 0 to 1."""
        x = self.repair_decoder(*self.features(L))                      # (B,  16, H,    W)
        return torch.sigmoid(self.repair_head(x).float())               # (B,   2, H,    W)

    def forward(self, L):
        if not self.repairs:
            return self.color(L)
        alpha, fill = self.holes(L).split(1, dim=1)                     # (B,   1, H,    W)
        return alpha * (fill - L)


class Decoder(ModuleList):
    """Features of the encoder, from the deepest level up -> (B, the last width, H, W)."""

    def __init__(self, *widths):
        in_channels = (512, *widths[:-1])
        skip_channels = (256, 128, 64, 64, 3)       # layer3, layer2, layer1, relu1, the input
        blocks = zip(in_channels, skip_channels, widths)
        super().__init__(UpBlock(*channels) for channels in blocks)
        self.apply(init_weights)

    def forward(self, x, *skips):
        for block, skip in zip(self, skips):
            x = block(x, skip)
        return x


class UpBlock(Module):
    """Double the size, join the skip, two 3x3 convolutions: x (B, C, H, W) -> (B, out, 2 H, 2 W).

    Convolving x and the skip separately and adding the results equals convolving both concatenated,
    without the copy.
    """

    def __init__(self, in_channels, skip_channels, out):
        super().__init__()
        self.from_below = UpConv2d(in_channels, out)
        self.from_skip = Conv2d(skip_channels, out, 3, padding=1, bias=False)
        self.rest = Sequential(
            BatchNorm2d(out), ReLU(inplace=True),
            Conv2d(out, out, 3, padding=1, bias=False),
            BatchNorm2d(out), ReLU(inplace=True)
        )

    def forward(self, x, skip):
        return self.rest(self.from_below(x) + self.from_skip(skip))


class UpConv2d(Conv2d):
    """Nearest-neighbor upsampling by 2 and a 3x3 convolution, as one transposed convolution.

    On doubled pixels, a 3x3 kernel covers only 2x2 distinct ones. Summing the weights that meet the
    same pixel gives a 4x4 kernel of stride 2 with the same result:

        conv3x3(upsample(x), w)  =  conv_transpose4x4(x, S w S^T)

    It takes 4 multiplications instead of 9, and no upsampled copy. A freely learned 4x4 kernel
    could produce checkerboards; this one cannot.
    """

    def __init__(self, in_channels, out):
        super().__init__(in_channels, out, 3, bias=False)
        # Each row lists which of the 3 weights add up to one of the 4, along one side.
        S = torch.tensor(((0, 0, 1), (0, 1, 1), (1, 1, 0), (1, 0, 0)), dtype=torch.float32)
        self.register_buffer("S", S, persistent=False)

    def forward(self, x):
        kernel = torch.einsum("yi,xj,ocij->coyx", self.S, self.S, self.weight)  # (in, out, 4, 4)
        return F.conv_transpose2d(x, kernel, stride=2, padding=1)


class Discriminator(Module):
    """PatchGAN: L (B, 1, H, W), target (B, C, H, W) -> one logit for each 70x70 patch.

    At 256x256 there are 15x15 logits. This is the paper's 70x70 discriminator, with a stride of 2
    in the last layer, which gives the 15x15 map of the ColorGAN notebook, and with spectral
    normalization (Miyato et al. 2018) instead of BatchNorm. BatchNorm sees real and fake pictures
    in separate batches: D learned to tell the batches apart, and never settled.
    """

    def __init__(self, target_channels=2):
        super().__init__()
        leaky = LeakyReLU(0.2, inplace=True)
        self.layers = Sequential(                           # at 256x256         receptive field
            Conv2d(1 + target_channels, 64, 4, stride=2, padding=1),
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

    def forward(self, L, target):
        # About unit variance: L is 0.45 +- 0.27, ab and repairs are 0 +- 0.1.
        inputs = ((L - 0.45) / 0.27, 8 * target)
        return self.layers(torch.cat(inputs, dim=1)).float()


def init_weights(module):
    """pix2pix's initialization of convolutions, N(0, 0.02)."""
    if isinstance(module, Conv2d):
        init.normal_(module.weight, 0, 0.02)
