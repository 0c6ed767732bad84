"""One training run: its networks, optimizers and log, and everything that is saved of them."""
import copy
import json
import math
import time

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torchvision.models import ResNet18_Weights
from torchvision.utils import save_image

from pix2pix import files
from pix2pix.data import examples
from pix2pix.device import processes
from pix2pix.metrics import render
from pix2pix.models import Generator
from pix2pix.terminal import UsageError, UserError, flag

STATEFUL = ("G", "D", "ema", "opt_G", "opt_D")      # attributes of a run with a state_dict


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
        # Autocast's cache would keep the bfloat16 weights of the step before.
        self.autocast = torch.autocast(
            self.device.type, torch.bfloat16, enabled=bf16, cache_enabled=False
        )
        self.config = config
        self.error = "L_error" if config["restore"] else "ab_error"     # the main figure of a row
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
        """Continue from the checkpoint `saved`. Raises UserError if it does not fit."""
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
        if not math.isfinite(row["l1"] + row[self.error]):
            raise UserError(
                f"epoch {row['epoch']}: the loss is not finite: start again with a lower --lr and "
                "another --out"
            )
        self.rows.append(row)
        print(f"{label}: l1 {row['l1']:.4f}; validation: {self.error} {row[self.error]:.2f} "
              f"(baseline {self.rows[0][self.error]:.2f}), PSNR {row['psnr']:.2f} dB; "
              f"{row['seconds']:.0f} s", flush=True)

    def verdict(self):
        """What to tell the user at the end."""
        if self.rows[-1][self.error] > self.rows[0][self.error]:
            return (f"done, but the {self.error} is above the baseline: train on more photos, for "
                    "more epochs or with a lower --lr")
        option = "--repair --checkpoint" if self.config["restore"] else "--checkpoint"
        return f"done: see {self.out}/samples; try infer.py {option} {self.out}/generator.pt"

    def save(self, shown):
        """Write samples, log and generator, then checkpoint.pt, which commits them.

        `shown` are validation photos for the samples, uint8 (B, 3, S, S).
        """
        latest = self.rows[-1]
        picture = self.out / "samples" / f"{latest['epoch']:03}_{latest['phase']}.png"
        with self.autocast:
            grid = samples(self.ema, shown, self.config["restore"])
        with files.whole_file(picture) as file:
            save_image(grid / 255, file, format="png", nrow=6, pad_value=1)

        log = "".join(json.dumps(row) + "\n" for row in self.rows)
        files.write(self.out / "log.jsonl", log.encode())

        weights = self.ema.state_dict()
        for name, weight in self.ema.named_parameters():
            weights[name] = weight.half()           # BatchNorm's statistics stay float32
        files.save(self.out / "generator.pt", {
            "kind": "generator",
            "config": self.config,
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


def find_checkpoint(typed):
    """The checkpoint to resume, or None. `typed` are the options that were typed, a dict.

    Raises UserError if there is one but no --resume, or if the options contradict it.
    """
    path = typed["out"] / "checkpoint.pt"
    if not path.exists():
        return None
    if "resume" not in typed:
        raise UserError(f"{path} exists: continue its run with --resume, or choose another --out")
    saved = files.load_saved(path, "checkpoint")
    for name, value in saved["config"].items():
        if typed.get(name, value) != value:
            if name not in ("data", "batch_size", "gan_epochs"):
                raise UsageError(
                    f"{flag(name)} {typed[name]} contradicts the run to resume: {value}"
                )
            if processes()[0] == 0:
                print(f"{flag(name)} changes from {value} to {typed[name]}"
                      f"{', so the result will differ' if name == 'batch_size' else ''}")
    return saved


def initial_generator(args):
    """G before its first step: from a trained generator, or with ImageNet's encoder, or noise.

    With --restore, sets `args.color_size`, which the run saves: the size at which G colors.
    Raises UserError if those weights cannot be loaded.
    """
    if path := args.restore or args.init_from:
        trained = files.load_generator(path)
        G = Generator(False, bool(args.restore))
        G.load_state_dict(trained.state_dict(), strict=False)   # either may lack a repair decoder
        if args.restore:                    # it colors at the size that it was trained at
            args.color_size = trained.config["size"]
        return G
    if args.no_pretrained:
        return Generator(pretrained=False)
    try:
        return Generator()
    except MemoryError:
        raise
    except Exception as error:          # no network, a proxy's page, a truncated file
        raise UserError(
            f"cannot load the ImageNet weights of ResNet18 ({error}): download "
            f"{ResNet18_Weights.IMAGENET1K_V1.url} into {torch.hub.get_dir()}/checkpoints, "
            "or train with --no-pretrained"
        )


@torch.no_grad()
def samples(G, photos, restore):
    """uint8 photos (B, 3, S, S) -> uint8 (3 B, 3, S, S): for each, G's input, its output, truth."""
    L, target = examples(photos, restore, "samples")
    pictures = [render(L, output) for output in (torch.zeros_like(L), G(L), target)]
    return torch.stack(pictures, dim=1).flatten(0, 1).cpu()


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
