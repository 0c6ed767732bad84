"""What the networks are made of, how they begin, and what they compute."""
import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet18

from pix2pix import models
from pix2pix.models import Discriminator, Generator, UpBlock
from pix2pix.run import initial_generator
from pix2pix.terminal import UserError
from tests.helpers import raising

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


@pytest.fixture(scope="module")
def imagenet_like():
    """A state dict as torchvision publishes it; BatchNorm's statistics are not the defaults."""
    torch.manual_seed(1)
    net = resnet18()
    net(torch.randn(4, 3, 64, 64))
    return net.state_dict()


@pytest.fixture
def downloaded(weights_file, imagenet_like):
    """These weights lie where PyTorch keeps what it downloaded."""
    torch.save(imagenet_like, weights_file)


@torch.no_grad()
def test_pretrained_encoder_yields_the_features_of_torchvisions_resnet18(
    downloaded, imagenet_like
):
    G = Generator(pretrained=True).eval()
    reference = resnet18()
    reference.load_state_dict(imagenet_like)
    reference.eval()
    L = torch.rand(2, 1, 96, 160)
    gray = (L.repeat(1, 3, 1, 1) - MEAN) / STD
    expected = [reference.relu(reference.bn1(reference.conv1(gray)))]
    x = reference.maxpool(expected[0])
    for layer in (reference.layer1, reference.layer2, reference.layer3, reference.layer4):
        x = layer(x)
        expected.append(x)
    seen = []                                   # what comes from below, and the skip
    for block in G.decoder:
        block.register_forward_pre_hook(lambda block, inputs: seen.append(inputs))
    G(L)
    features = [seen[0][0], *[skip for _, skip in seen]]
    for feature, want in zip(features, [*reversed(expected), gray], strict=True):
        assert torch.equal(feature, want)


def test_initialization_touches_the_decoder_and_never_the_encoder(downloaded, imagenet_like):
    G = Generator(pretrained=True)
    for name, weight in G.encoder.state_dict().items():
        assert torch.equal(weight, imagenet_like[name]), name
    for net in (G.decoder, G.head, Discriminator()):
        convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
        weights = torch.cat([convolution.weight.flatten() for convolution in convolutions])
        tolerance = 5 / weights.numel() ** 0.5
        assert abs(weights.mean()) < 0.02 * tolerance
        assert abs(weights.std() / 0.02 - 1) < tolerance


def test_weights_that_cannot_be_loaded_are_one_clear_error(weights_file):
    weights_file.write_bytes(b"<html>404</html>")
    with pytest.raises(UserError) as caught:
        initial_generator(repairs=False, pretrained=True)
    message = str(caught.value)
    assert "resnet18-f37072fd.pth" in message and str(weights_file.parent) in message
    assert "--no-pretrained" in message and "\n" not in message


@pytest.mark.parametrize("net", [Generator(pretrained=False), Discriminator()])
def test_what_is_saved_of_a_network_is_its_weights_and_batchnorms_statistics(net):
    """Anything more would be missing in the files that exist already."""
    others = net.state_dict().keys() - dict(net.named_parameters()).keys()
    kinds = {name.rpartition(".")[2] for name in others}
    assert kinds == {"running_mean", "running_var", "num_batches_tracked"}


def test_full_memory_is_not_blamed_on_the_network(monkeypatch):
    monkeypatch.setattr(models, "resnet18", raising(MemoryError()))
    with pytest.raises(MemoryError):
        initial_generator(repairs=False, pretrained=True)


def describe(layer):
    """A layer in the paper's words."""
    match layer:
        case nn.Conv2d():
            side = layer.kernel_size[0]
            stride = f", stride {layer.stride[0]}" if layer.stride[0] > 1 else ""
            bias = ", bias" if layer.bias is not None else ""
            return f"{side}x{side} {layer.in_channels} -> {layer.out_channels}{stride}{bias}"
        case nn.BatchNorm2d():
            return f"BatchNorm {layer.num_features}"
        case nn.LeakyReLU():
            return f"LeakyReLU {layer.negative_slope}"
        case nn.ReLU():
            return "ReLU"
    return str(layer)


def test_the_discriminator_has_the_papers_layers():
    """The paper's C64-C128-C256-C512 (section 6.1.2): no BatchNorm in C64, leaky ReLUs of 0.2."""
    assert [describe(layer) for layer in Discriminator().layers] == [
        "4x4 3 -> 64, stride 2, bias", "LeakyReLU 0.2",
        "4x4 64 -> 128, stride 2", "BatchNorm 128", "LeakyReLU 0.2",
        "4x4 128 -> 256, stride 2", "BatchNorm 256", "LeakyReLU 0.2",
        "4x4 256 -> 512", "BatchNorm 512", "LeakyReLU 0.2",
        "4x4 512 -> 1, stride 2, bias"
    ]


def test_a_block_of_the_decoder_has_two_convolutions_of_3x3():
    """The convolutions have no bias: the BatchNorm after them has one."""
    block = UpBlock(6, 4, 5)
    assert [describe(layer) for layer in (block.from_below, block.from_skip, *block.rest)] == [
        "3x3 6 -> 5", "3x3 4 -> 5", "BatchNorm 5", "ReLU",
        "3x3 5 -> 5", "BatchNorm 5", "ReLU"
    ]


@torch.no_grad()
@pytest.mark.parametrize("shape", [(2, 1, 256, 256), (1, 1, 96, 160), (1, 1, 32, 32)])
def test_the_output_has_the_shape_of_the_input_and_the_range_of_ab(shape):
    G = Generator(pretrained=False).eval()
    G.head.weight.mul_(1000)
    ab = G(torch.rand(shape))
    assert ab.shape == (shape[0], 2, *shape[2:]) and ab.dtype == torch.float32
    assert -1 <= ab.min() < -0.5 and 0.5 < ab.max() <= 1


@torch.no_grad()
@pytest.mark.parametrize("stage", range(5))
def test_every_skip_reaches_the_output(stage):
    G = Generator(pretrained=False).eval()
    L = torch.rand(1, 1, 64, 64)
    before = G(L)
    block = G.decoder[stage]
    forward = block.forward
    block.forward = lambda x, skip: forward(x, torch.zeros_like(skip))
    assert (G(L) - before).abs().max() > 1e-5


def test_the_generator_takes_at_most_13_gflop_a_picture():
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        Generator(pretrained=False).eval()(torch.rand(1, 1, 256, 256))
    assert 10e9 < counter.get_total_flops() <= 13e9


def test_a_block_of_the_decoder_equals_doubling_joining_and_convolving():
    """The block takes a shorter way than one would draw, to the same values and gradients."""
    torch.manual_seed(0)
    block = UpBlock(6, 4, 5)
    x = torch.randn(2, 6, 3, 7, requires_grad=True)
    skip = torch.randn(2, 4, 6, 14)
    weights = (block.from_below.weight, block.from_skip.weight)
    joined = torch.cat((F.interpolate(x, scale_factor=2, mode="nearest"), skip), dim=1)
    drawn = block.rest(F.conv2d(joined, torch.cat(weights, dim=1), padding=1))
    result = block(x, skip)
    assert torch.allclose(result, drawn, atol=1e-5)
    slope = torch.randn_like(drawn)
    ours, theirs = (torch.autograd.grad(y, (x, *weights), slope) for y in (result, drawn))
    for gradient, other in zip(ours, theirs, strict=True):
        assert torch.allclose(gradient, other, atol=1e-4)


def test_a_logit_of_the_discriminator_sees_exactly_70x70_pixels():
    D = Discriminator().eval()
    L = torch.rand(1, 1, 256, 256, requires_grad=True)
    target = torch.rand(1, 2, 256, 256, requires_grad=True)
    logits = D(L, target)
    assert logits.shape == (1, 1, 15, 15)
    logits[0, 0, 7, 7].backward()
    for seen in (L.grad, target.grad):
        rows, columns = seen.abs().sum(dim=(0, 1)).nonzero().T
        assert rows.max() - rows.min() + 1 == 70 and columns.max() - columns.min() + 1 == 70


@torch.no_grad()
def test_the_discriminator_judges_colors_given_their_luminance():
    D = Discriminator().eval()
    L = torch.rand(1, 1, 256, 256)
    target = torch.rand(1, 2, 256, 256)
    logits = D(L, target)
    assert (D(1 - L, target) - logits).abs().max() > 1e-4
    assert (D(L, -target) - logits).abs().max() > 1e-4


@pytest.mark.parametrize(
    "make, channels", [(lambda: Generator(pretrained=False), (1,)), (Discriminator, (1, 2))]
)
def test_bfloat16_is_close_to_float32_and_keeps_weights_and_results_in_float32(make, channels):
    torch.manual_seed(0)
    net = make()
    inputs = [torch.rand(2, number, 64, 64) for number in channels]
    half = copy.deepcopy(net)
    with torch.autocast("cpu", torch.bfloat16):
        result = half(*inputs)
    result.mean().backward()
    assert result.dtype == torch.float32
    assert all(weight.grad.dtype == torch.float32 for weight in half.parameters())
    exact = net(*inputs)
    assert 0.002 < (result - exact).norm() / exact.norm() < 0.1
