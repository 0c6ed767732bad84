"""One training run: its networks, optimizers and log, and everything that is saved of them."""
import copy
import json
import math
import time

import torch
from PIL import Image, ImageDraw
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torchvision.models import ResNet18_Weights
from torchvision.utils import save_image

from pix2pix import files
from pix2pix.color import decode
from pix2pix.data import examples
from pix2pix.metrics import gray
from pix2pix.models import Generator
from pix2pix.terminal import UserError

STATEFUL = ("G", "D", "ema", "opt_G", "opt_D")      # attributes of a run with a state_dict

CURVES = {                  # what curves.png shows of the log, and its color
    "ab_error": "crimson",
    "colorfulness": "royalblue",
    "d_real_accuracy": "seagreen",
    "d_fake_accuracy": "orange"
}


class Run:
    """G, D, the moving average (EMA) of G, both optimizers, and the rows of the log.

    `config` holds the options that decide the result, as plain values; `fingerprint` identifies the
    photos. Both are saved in the folder `out`. The rows are those of log.jsonl. `autocast` is the
    context in which networks are called: bfloat16 if `bf16`.
    """

    def __init__(self, G, D, config, fingerprint, out, bf16):
        self.G = G
        self.D = D
        self.ema = copy.deepcopy(G).eval().requires_grad_(False)
        self.opt_G = _adam(G, config["lr"])
        self.opt_D = _adam(D, config["lr"])
        self.rows = []
        self.saved_at = time.monotonic()
        self.device = next(G.parameters()).device
        # No cache: it would hold weights from before a step.
        self.autocast = torch.autocast(
            self.device.type, torch.bfloat16, enabled=bf16, cache_enabled=False
        )
        self.config = config
        self.fingerprint = fingerprint
        self.out = out
        self._ema_tensors = _float_tensors(self.ema)
        self._G_tensors = _float_tensors(G)

    def update_ema(self, step):
        """Move the EMA, including BatchNorm's statistics, towards G after G's step number `step`.

        The EMA is what is evaluated, sampled and shipped: G itself fluctuates in the GAN phase.
        """
        # It averages over about 1,000 steps; over fewer at first, to forget the random weights.
        decay = min(0.999, step / (step + 9))
        update = get_ema_multi_avg_fn(decay)    # ema = decay * ema + (1 - decay) * G
        update(self._ema_tensors, self._G_tensors, None)

    def load(self, saved):
        """Continue from the checkpoint `saved`. Raises UserError if it fits other networks."""
        try:
            for name in STATEFUL:
                getattr(self, name).load_state_dict(saved[name])
        except torch.OutOfMemoryError:
            raise
        except (KeyError, RuntimeError, ValueError):
            raise UserError(f"{self.out}/checkpoint.pt is from another version of this program")
        for optimizer in (self.opt_G, self.opt_D):
            _match_strides(optimizer)
        self.rows = saved["rows"]

    def log(self, row, label):
        """Append a row and print its figures. Raises UserError if one of them is not finite."""
        if not all(math.isfinite(value) for value in row.values() if isinstance(value, float)):
            raise UserError(
                f"epoch {row['epoch']}: the loss is not finite: start again with a lower --lr"
            )
        self.rows.append(row)
        print(f"{label}: l1 {row['l1']:.4f}; validation: ab error {row['ab_error']:.2f} "
              f"(gray {self.rows[0]['ab_error']:.2f}), PSNR {row['psnr']:.2f} dB; "
              f"{row['seconds']:.0f} s", flush=True)

    def save(self, shown):
        """Write samples, curves, log and generator, and last checkpoint.pt, which commits them.

        `shown` are validation photos for the samples, uint8 (B, 3, S, S).
        """
        latest = self.rows[-1]
        picture = self.out / "samples" / f"{latest['epoch']:03}_{latest['phase']}.png"
        with self.autocast:
            grid = samples(self.ema, shown)
        with files.whole_file(picture) as file:
            save_image(grid / 255, file, format="png", nrow=6, padding=4, pad_value=1)

        with files.whole_file(self.out / "curves.png") as file:
            curves(self.rows).save(file, "png")

        log = "".join(json.dumps(row) + "\n" for row in self.rows)
        files.write(self.out / "log.jsonl", log.encode())

        weights = self.ema.state_dict()
        for name, weight in self.ema.named_parameters():
            weights[name] = weight.half()           # BatchNorm's statistics stay float32
        files.save(self.out / "generator.pt", {
            "kind": "generator",
            "config": self.config | {"epochs": latest["epoch"]},
            "weights": weights
        })
        checkpoint = {
            "kind": "checkpoint",
            "config": self.config,
            "fingerprint": self.fingerprint,
            "rows": self.rows
        }
        for name in STATEFUL:
            checkpoint[name] = getattr(self, name).state_dict()
        files.save(self.out / "checkpoint.pt", checkpoint)
        self.saved_at = time.monotonic()


def initial_generator(repairs, pretrained):
    """An untrained Generator. Raises UserError if the ImageNet weights cannot be loaded."""
    if not pretrained:
        return Generator(pretrained, repairs)
    try:
        return Generator(pretrained, repairs)
    except MemoryError:
        raise
    except Exception as error:          # no network, a proxy's page, a truncated file
        raise UserError(
            f"cannot load the ImageNet weights of ResNet18 ({error}): download "
            f"{ResNet18_Weights.IMAGENET1K_V1.url} into {torch.hub.get_dir()}/checkpoints, "
            "or train with --no-pretrained"
        )


@torch.no_grad()
def samples(G, photos):
    """uint8 photos (B, 3, S, S) -> uint8 (3 B, 3, S, S): for each, G's input, its output, truth."""
    L, _, _ = examples(photos, G.repairs, "samples")
    output = decode(*G.predict(L))
    return torch.stack((decode(*gray(L)), output, photos), dim=1).flatten(0, 1).cpu()


def curves(rows):
    """The log as a picture: each figure by epoch, on a scale from 0 to the line at 1.

    1 stands for gray's ab error, the truth's colorfulness, and an accuracy of D on all patches. The
    GAN phase is shaded.
    """
    scales = {"ab_error": rows[0]["ab_error"], "colorfulness": rows[0]["colorfulness_truth"]}
    picture = Image.new("RGB", (1000, 600), "white")
    draw = ImageDraw.Draw(picture)
    epoch_width = 700 / rows[-1]["epoch"]                   # pixels
    gan_epochs = [row["phase"] for row in rows].count("gan")
    draw.rectangle((700 - gan_epochs * epoch_width, 0, 700, 600), "lavender")
    draw.line((0, 100, 700, 100), "black")
    draw.text((720, 570), f"epoch {rows[-1]['epoch']}", "black", font_size=18)
    for place, (name, color) in enumerate(CURVES.items()):
        scale = scales.get(name, 1)
        points = [(row["epoch"] * epoch_width, 600 - 500 * row[name] / scale)
                  for row in rows if name in row]
        draw.line(points, color, width=3)
        draw.text((720, 100 + 30 * place), f"{name} / {scale:.3g}", color, font_size=18)
    return picture


def _adam(net, lr):
    return torch.optim.Adam(net.parameters(), lr, betas=(0.5, 0.999), fused=True)


def _match_strides(optimizer):
    """Give the optimizer's state the strides of its parameters.

    A checkpoint may come from a device with another memory format. With strides that differ from
    its parameter's, fused Adam on the CPU silently computes wrong steps.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value)


def _float_tensors(net):
    """Weights and BatchNorm's statistics, without its counters."""
    return [tensor for tensor in net.state_dict().values() if tensor.is_floating_point()]
