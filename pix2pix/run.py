"""What one training is made of and all that is saved of it."""
import copy
import json

import torch
from PIL import Image, ImageDraw
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torchvision.utils import save_image

from pix2pix import files
from pix2pix.color import decode
from pix2pix.damage import examples
from pix2pix.metrics import gray
from pix2pix.terminal import UserError

PARTS = ("G", "D", "average", "opt_G", "opt_D")     # of a run, with a state

CURVES = {                  # in curves.png: figures of the rows, and their colours
    "ab_error": "crimson",
    "colorfulness": "royalblue",
    "d_real_accuracy": "seagreen",
    "d_fake_accuracy": "orange"
}


class Run:
    """G, D, the moving average of G, both optimizers, and the rows of the log.

    `config` holds the options that decide the result, as plain values, and `identity` tells the set
    of photos; both are kept in what is saved in the folder `out`. Rows are as of log.jsonl.
    """

    def __init__(self, G, D, config, identity, out):
        self.G = G
        self.D = D
        self.average = copy.deepcopy(G).eval().requires_grad_(False)
        self.opt_G = _adam(G, config["lr"])
        self.opt_D = _adam(D, config["lr"])
        self.rows = []
        self.device = next(G.parameters()).device
        self.config = config
        self.identity = identity
        self.out = out
        self._averaged = _float_tensors(self.average)
        self._current = _float_tensors(G)

    def update_average(self, step):
        """Move the average of G, BatchNorm's statistics included, after G's step number `step`.

        The average is what is evaluated, shown and shipped: G itself swings in the GAN phase.
        """
        # A memory of 1,000 steps; short at first, or the random start would linger.
        decay = min(0.999, step / (step + 9))
        move = get_ema_multi_avg_fn(decay)      # average = decay * average + (1 - decay) * G
        move(self._averaged, self._current, None)

    def load(self, saved):
        """Go on from the checkpoint `saved`. Raises UserError where it fits other networks."""
        try:
            for name in PARTS:
                getattr(self, name).load_state_dict(saved[name])
        except torch.OutOfMemoryError:
            raise
        except (KeyError, RuntimeError, ValueError):
            raise UserError(f"{self.out}/checkpoint.pt is of another version of this program")
        for optimizer in (self.opt_G, self.opt_D):
            _lay_out(optimizer)
        self.rows = saved["rows"]

    def save(self, shown):
        """Write what people look at and use, and last checkpoint.pt, which commits all of it.

        `shown` are held-out photos for the samples, uint8 (B, 3, S, S).
        """
        latest = self.rows[-1]
        picture = self.out / "samples" / f"{latest['epoch']:03}_{latest['phase']}.png"
        with files.whole_file(picture) as file:
            save_image(samples(self.average, shown) / 255, file, format="png",
                       nrow=6, padding=4, pad_value=1)

        with files.whole_file(self.out / "curves.png") as file:
            curves(self.rows).save(file, "png")

        log = "".join(json.dumps(row) + "\n" for row in self.rows)
        files.write(self.out / "log.jsonl", log.encode())

        weights = self.average.state_dict()
        for name, weight in self.average.named_parameters():
            weights[name] = weight.half()           # BatchNorm's statistics stay float32
        files.save(self.out / "generator.pt", {
            "kind": "generator",
            "config": self.config | {"epochs": latest["epoch"]},
            "weights": weights
        })
        checkpoint = {
            "kind": "checkpoint",
            "config": self.config,
            "identity": self.identity,
            "rows": self.rows
        }
        for name in PARTS:
            checkpoint[name] = getattr(self, name).state_dict()
        files.save(self.out / "checkpoint.pt", checkpoint)


@torch.no_grad()
def samples(G, photos):
    """Photos uint8 (B, 3, S, S) -> uint8 (3 B, 3, S, S): each as G sees it, as made, in truth."""
    L, _, _ = examples(photos, G.repairs, "samples")
    made = decode(*G.predict(L))
    return torch.stack((decode(*gray(L)), made, photos), dim=1).flatten(0, 1).cpu()


def curves(rows):
    """The rows of the log as a picture: each figure by epoch, on a scale from 0 to the line at 1.

    1 is gray's ab error, the truth's colorfulness, and for D's accuracies every patch. The GAN
    phase is shaded.
    """
    full = {"ab_error": rows[0]["ab_error"], "colorfulness": rows[0]["colorfulness_truth"]}
    picture = Image.new("RGB", (1000, 600), "white")
    draw = ImageDraw.Draw(picture)
    per_epoch = 700 / rows[-1]["epoch"]                     # pixels
    gan_epochs = [row["phase"] for row in rows].count("gan")
    draw.rectangle((700 - gan_epochs * per_epoch, 0, 700, 600), "lavender")
    draw.line((0, 100, 700, 100), "black")
    draw.text((720, 570), f"epoch {rows[-1]['epoch']}", "black", font_size=18)
    for place, (name, color) in enumerate(CURVES.items()):
        one = full.get(name, 1)
        points = [(row["epoch"] * per_epoch, 600 - 500 * row[name] / one)
                  for row in rows if name in row]
        draw.line(points, color, width=3)
        draw.text((720, 100 + 30 * place), f"{name} / {one:.3g}", color, font_size=18)
    return picture


def _adam(net, lr):
    return torch.optim.Adam(net.parameters(), lr, betas=(0.5, 0.999), fused=True)


def _lay_out(optimizer):
    """Give the state of an optimizer the strides of its parameters.

    It may come from a device of another memory format, and with other strides than its parameter's
    fused Adam on the CPU steps wrongly without a word.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value)


def _float_tensors(net):
    """Weights and statistics, but not BatchNorm's counters."""
    return [tensor for tensor in net.state_dict().values() if tensor.is_floating_point()]
