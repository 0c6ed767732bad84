"""What the networks are made of, how they begin, and what they compute."""
import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet18

from pix2pix import models
from pix2pix.models import Discriminator, Generator, UpBlock, update_ema, upsample_cat_conv
from pix2pix.terminal import UserError
from pix2pix.weights import initial_generator
from tests.helpers import new_config, new_parts, raising

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
        kernels = [weight for weight in net.parameters() if weight.dim() == 4]
        weights = torch.cat([kernel.flatten() for kernel in kernels])
        tolerance = 5 / weights.numel() ** 0.5
        assert abs(weights.mean()) < 0.02 * tolerance
        assert abs(weights.std() / 0.02 - 1) < tolerance


def test_weights_that_cannot_be_loaded_are_one_clear_error(weights_file):
    weights_file.write_bytes(b"<html>404</html>")
    with pytest.raises(UserError) as caught:
        initial_generator(new_config(), None)
    message = str(caught.value)
    assert "resnet18-f37072fd.pth" in message and str(weights_file.parent) in message
    assert "--no-pretrained" in message and "\n" not in message


@pytest.mark.parametrize(
    "net, statistics",
    [
        (Generator(pretrained=False), {"running_mean", "running_var", "num_batches_tracked"}),
        (Discriminator(), {"_u", "_v"})
    ]
)
def test_what_is_saved_of_a_network_is_its_weights_and_its_norms_statistics(net, statistics):
    """Anything more would be missing in the files that exist already."""
    others = net.state_dict().keys() - dict(net.named_parameters()).keys()
    kinds = {name.rpartition(".")[2] for name in others}
    assert kinds == statistics


def test_full_memory_is_not_blamed_on_the_network(monkeypatch):
    monkeypatch.setattr(models, "get_model", raising(MemoryError()))
    with pytest.raises(MemoryError):
        initial_generator(new_config(), None)


def has_spectral_norm(layer):
    if not parametrize.is_parametrized(layer, "weight"):
        return False
    return [type(kind).__name__ for kind in layer.parametrizations.weight] == ["_SpectralNorm"]


def describe(layer):
    """A layer in the paper's words."""
    match layer:
        case nn.Conv2d():
            side = layer.kernel_size[0]
            stride = f", stride {layer.stride[0]}" if layer.stride[0] > 1 else ""
            bias = ", bias" if layer.bias is not None else ""
            norm = ", spectral norm" if has_spectral_norm(layer) else ""
            channels = f"{layer.in_channels} -> {layer.out_channels}"
            return f"{side}x{side} {channels}{stride}{bias}{norm}"
        case nn.BatchNorm2d():
            return f"BatchNorm {layer.num_features}"
        case nn.LeakyReLU():
            return f"LeakyReLU {layer.negative_slope}"
        case nn.ReLU():
            return "ReLU"
    return str(layer)


def test_the_discriminator_has_the_papers_layers():
    """The paper's C64-C128-C256-C512 (section 6.1.2), with spectral norms for BatchNorm."""
    assert [describe(layer) for layer in Discriminator().layers] == [
        "4x4 3 -> 64, stride 2, bias, spectral norm", "LeakyReLU 0.2",
        "4x4 64 -> 128, stride 2, bias, spectral norm", "LeakyReLU 0.2",
        "4x4 128 -> 256, stride 2, bias, spectral norm", "LeakyReLU 0.2",
        "4x4 256 -> 512, bias, spectral norm", "LeakyReLU 0.2",
        "4x4 512 -> 1, stride 2, bias, spectral norm"
    ]


def test_a_block_of_the_decoder_has_two_convolutions_of_3x3():
    """The convolutions have no bias: the BatchNorm after them has one."""
    assert [describe(layer) for layer in UpBlock(6, 4, 5).children()] == [
        "3x3 10 -> 5", "BatchNorm 5",
        "3x3 5 -> 5", "BatchNorm 5"
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
    skip = torch.randn(2, 4, 6, 14, requires_grad=True)
    joined = torch.cat((F.interpolate(x, scale_factor=2, mode="nearest"), skip), dim=1)
    drawn = F.relu(block.bn1(block.conv1(joined)))
    drawn = F.relu(block.bn2(block.conv2(drawn)))
    assert_same_values_and_gradients(block(x, skip), drawn, (x, skip, *block.parameters()))


def assert_same_values_and_gradients(result, expected, inputs):
    assert torch.allclose(result, expected, atol=1e-5)
    slope = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad(y, inputs, slope) for y in (result, expected))
    for gradient, other in zip(ours, theirs, strict=True):
        assert torch.allclose(gradient, other, atol=1e-4)


@pytest.mark.parametrize("size", [(3, 7), (1, 1), (8, 2)])
def test_the_faster_convolution_equals_that_of_the_plain_form(size):
    """At the edges, too: both see zeros beyond them."""
    torch.manual_seed(0)
    height, width = size
    x = torch.randn(2, 6, height, width, requires_grad=True)
    skip = torch.randn(2, 4, 2 * height, 2 * width, requires_grad=True)
    weight = torch.randn(5, 10, 3, 3, requires_grad=True)
    joined = torch.cat((F.interpolate(x, scale_factor=2), skip), dim=1)
    plain = F.conv2d(joined, weight, padding=1)
    assert_same_values_and_gradients(
        upsample_cat_conv(x, skip, weight), plain, (x, skip, weight)
    )


@torch.no_grad()
@pytest.mark.parametrize("encoder, channels", [("resnet34", 512), ("resnet50", 2048)])
def test_other_resnets_of_torchvision_are_encoders_too(encoder, channels):
    G = Generator(pretrained=False, encoder=encoder).eval()
    L = torch.rand(1, 1, 64, 96)
    assert G.features(L)[0].shape == (1, channels, 2, 3)
    assert G(L).shape == (1, 2, 64, 96)


def test_the_ema_follows_G_with_a_memory_that_grows():
    parts = new_parts()
    G, ema = parts.G, parts.ema
    start = G.head.weight.detach().clone()
    with torch.no_grad():
        G.head.weight.add_(1)
        G.encoder.bn1.running_mean.add_(1)
    update_ema(ema, G, 1)
    assert torch.allclose(ema.head.weight, start + 0.9)
    assert torch.allclose(ema.encoder.bn1.running_mean, torch.tensor(0.9))
    old = ema.head.weight.clone()
    update_ema(ema, G, 10**6)
    assert torch.allclose(ema.head.weight - old, torch.tensor(0.0001), atol=1e-5)


def test_a_logit_of_the_discriminator_sees_exactly_70x70_pixels():
    D = Discriminator().eval()
    L = torch.rand(1, 1, 256, 256, requires_grad=True)
    ab = torch.rand(1, 2, 256, 256, requires_grad=True)
    logits = D(L, ab)
    assert logits.shape == (1, 1, 15, 15)
    logits[0, 0, 7, 7].backward()
    for seen in (L.grad, ab.grad):
        rows, columns = seen.abs().sum(dim=(0, 1)).nonzero().T
        assert rows.max() - rows.min() + 1 == 70 and columns.max() - columns.min() + 1 == 70


@torch.no_grad()
def test_the_discriminator_judges_colors_given_their_luminance():
    D = Discriminator().eval()
    L = torch.rand(1, 1, 256, 256)
    ab = torch.rand(1, 2, 256, 256)
    logits = D(L, ab)
    assert (D(1 - L, ab) - logits).abs().max() > 1e-4
    assert (D(L, -ab) - logits).abs().max() > 1e-4


@torch.no_grad()
def test_the_discriminator_sees_L_and_ab_at_about_unit_variance():
    seen = []
    L = torch.rand(1, 1, 64, 64)
    ab = torch.rand(1, 2, 64, 64) - 0.5
    D = Discriminator()
    D.layers.register_forward_pre_hook(lambda layers, inputs: seen.append(inputs[0]))
    D(L, ab)
    assert torch.allclose(seen[0], torch.cat(((L - 0.45) / 0.27, 8 * ab), dim=1))


@torch.no_grad()
def test_the_logits_of_a_picture_do_not_depend_on_its_company():
    """With BatchNorm they did, and D judged batches instead of pictures."""
    torch.manual_seed(0)
    D = Discriminator()
    L = torch.rand(4, 1, 64, 64)
    real = torch.rand(4, 2, 64, 64) - 0.5

    def judge(count, vividness):
        """The logits of the first picture, in training, of a D that was never called before."""
        ab = torch.cat((vividness * real[:1], real[1:count]))
        return copy.deepcopy(D).train()(L[:count], ab)[0]

    alone = [judge(1, vividness) for vividness in (1, 2)]
    in_company = [judge(4, vividness) for vividness in (1, 2)]
    assert (alone[1] - alone[0]).abs().max() > 1e-3, "D sees how vivid it is"
    for one, other in zip(alone, in_company):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("scale", [0.1, 1, 30])
def test_every_convolution_of_the_discriminator_has_a_spectral_norm_of_1(scale):
    """Whatever the weights grew to; each call in training follows them a little."""
    torch.manual_seed(0)
    D = Discriminator()
    with torch.no_grad():
        for kernel in D.parameters():
            kernel.mul_(scale).add_(scale * 0.02 * torch.randn_like(kernel))
        for _ in range(30):
            D(torch.rand(1, 1, 64, 64), torch.rand(1, 2, 64, 64))
        norms = [torch.linalg.matrix_norm(conv.weight.flatten(1), 2).item()
                 for conv in D.layers if isinstance(conv, nn.Conv2d)]
    assert norms == pytest.approx([1] * 5, abs=0.03)


def test_judging_in_training_moves_the_norms_and_judging_in_evaluation_moves_nothing():
    D = Discriminator()
    pair = (torch.rand(1, 1, 64, 64), torch.rand(1, 2, 64, 64))
    for training in (False, True):
        before = copy.deepcopy(D.state_dict())
        D.train(training)(*pair)
        moved = {name for name, tensor in D.state_dict().items() if not tensor.equal(before[name])}
        assert {name.rpartition(".")[2] for name in moved} == ({"_u", "_v"} if training else set())


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
