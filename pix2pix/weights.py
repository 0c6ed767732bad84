"""Files of weights: checkpoint.pt and generator.pt of train.py, and ImageNet's."""
import io
from pathlib import Path

import torch
from torchvision.models import get_model_weights

from pix2pix.files import write
from pix2pix.models import Generator
from pix2pix.terminal import UserError

# Options that do not decide what is trained. The others are saved with the weights.
NOT_SAVED = ("out", "device", "resume", "save_seconds")


def options_to_save(config):
    """The options that decide what is trained, a dict of plain values."""
    return {name: value for name, value in vars(config).items() if name not in NOT_SAVED}


def save_weights(path, content):
    """torch.save to a whole file. Serializes in memory, because torch hides why a write failed."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write(path, buffer.getbuffer())


def load_saved(path, kind):
    """The dict that train.py saved at `path`, on the CPU. `kind` is "checkpoint" or "generator".

    Raises OSError if there is no such file, and UserError if it holds something else.
    """
    content = io.BytesIO(Path(path).read_bytes())
    refusal = UserError(f"{path} is not a complete {kind} written by train.py")
    try:
        saved = torch.load(content, map_location="cpu", weights_only=True)
    except Exception:                   # a web page or a truncated file can raise anything
        raise refusal
    if not isinstance(saved, dict) or saved.get("kind") != kind:
        raise refusal
    return saved


def generator_file(G, config):
    """What generator.pt holds: the weights of G, and the options that it was trained with."""
    return {
        "kind": "generator",
        "config": options_to_save(config),
        "weights": half_precision(G)
    }


def half_precision(net):
    """The network's state_dict with float16 weights. BatchNorm's statistics stay float32."""
    weights = net.state_dict()
    for name, weight in net.named_parameters():
        weights[name] = weight.half()
    return weights


def load_generator(path, device="cpu"):
    """The Generator that train.py saved at `path`, ready for inference.

    Its .config is the dict of options it was trained with; "size" is the side of the squares that
    it colors. Raises OSError if there is no such file, and UserError if it holds something else.
    """
    saved = load_saved(path, "generator")
    encoder = "unknown"
    try:
        config = saved["config"]
        encoder = config["encoder"]
        G = Generator(pretrained=False, encoder=encoder)
        G.load_state_dict(saved["weights"])             # float16 becomes float32
    # AttributeError: torchvision's other networks lack the parts of a ResNet.
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
        raise UserError(f"{path} is from another version of this program (encoder: {encoder})")
    G.config = config
    return G.to(device).eval()


def initial_generator(config, saved):
    """G before its first step: a trained generator, or with ImageNet's encoder, or from noise.

    A trained generator decides the encoder: `config.encoder` becomes its own. A checkpoint `saved`
    needs no initial weights. Raises UserError if weights cannot be loaded.
    """
    if saved:
        return Generator(False, config.encoder)
    if config.init_from:
        G = load_generator(config.init_from).train()
        config.encoder = G.config["encoder"]
        return G
    try:
        return Generator(not config.no_pretrained, config.encoder)
    except MemoryError:
        raise
    except Exception as error:          # no network, a proxy's page, a truncated file
        url = get_model_weights(config.encoder).IMAGENET1K_V1.url
        raise UserError(
            f"cannot load the ImageNet weights of {config.encoder} ({error}): download {url} into "
            f"{torch.hub.get_dir()}/checkpoints, or train with --no-pretrained"
        )
