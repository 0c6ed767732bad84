"""The log of one training run, and everything that is saved of it; --resume."""
import json
import math
import time

import torch
from torchvision.utils import save_image

from pix2pix import curves, files
from pix2pix.device import processes
from pix2pix.terminal import UserError
from pix2pix.weights import options_to_save, save_weights


class Run:
    """One training in the folder config.out.

    `parts` holds, by name, the networks and optimizers to save. `fingerprint` identifies the
    photos. `error` names the main figure of the log, such as "ab_error". `rows` are those of
    log.jsonl; the first is the baseline.
    """

    def __init__(self, config, fingerprint, error, baseline, parts):
        self.config = config
        self.fingerprint = fingerprint
        self.error = error
        self.parts = parts
        self.rows = [{"phase": "gray", "epoch": 0} | baseline]
        self.saved_at = time.monotonic()

    def load(self, saved):
        """Continue from the checkpoint `saved`. Raises UserError if it does not fit."""
        if saved["fingerprint"] != self.fingerprint:
            raise UserError(
                f"{self.config.data} has changed since: undo that (is --out among the photos?), or "
                "start again with another --out"
            )
        try:
            for name, part in self.parts.items():
                part.load_state_dict(saved[name])
        except torch.OutOfMemoryError:
            raise
        except (KeyError, RuntimeError, ValueError):
            raise UserError(
                f"{self.config.out}/checkpoint.pt is from another version of this program"
            )
        for part in self.parts.values():
            if isinstance(part, torch.optim.Optimizer):
                _match_strides(part)
        self.rows = saved["rows"]

    def log(self, row, label):
        """Append a row, which needs "l1", "psnr", "seconds" and the error, and print these.

        Raises UserError if l1 or the error is not finite.
        """
        error = row[self.error]
        if not math.isfinite(row["l1"] + error):
            raise UserError(
                f"epoch {row['epoch']}: the loss is not finite: start again with a lower --lr and "
                "another --out"
            )
        self.rows.append(row)
        print(f"{label}: l1 {row['l1']:.4f}; validation: {self.error} {error:.2f} "
              f"(baseline {self.rows[0][self.error]:.2f}), PSNR {row['psnr']:.2f} dB; "
              f"{row['seconds']:.0f} s", flush=True)

    def finish(self):
        """Leave torchrun's processes, and tell the user how it went."""
        rank, world = processes()
        if world > 1:
            torch.distributed.destroy_process_group()
        if rank == 0:
            print(self.verdict())

    def verdict(self):
        """What to tell the user at the end."""
        errors = [row[self.error] for row in self.rows]
        best = errors.index(min(errors))
        lowest = f"the lowest {self.error}, {errors[best]:.2f}, was that of epoch {best}"
        if errors[-1] > errors[0]:
            return (f"done, but the {self.error} is above the baseline: train on more photos, for "
                    f"more epochs or with a lower --lr ({lowest})")
        return f"done: see {self.config.out}/samples; {lowest}"

    def is_due(self):
        """Whether the last save was long enough ago."""
        return time.monotonic() - self.saved_at >= self.config.save_seconds

    def save(self, pictures, generator):
        """Write samples, curves, log and generator, then checkpoint.pt, which commits them.

        `pictures` are uint8 (N, 3, S, S), three to a validation photo; `generator` is the content
        of generator.pt.
        """
        out = self.config.out
        latest = self.rows[-1]
        name = f"samples/{latest['epoch']:03}_{latest['phase']}.png"
        with files.whole_file(out / name) as file:
            save_image(pictures / 255, file, format="png", nrow=6, pad_value=1)
        with files.whole_file(out / "curves.png") as file:
            curves.draw(self.rows).save(file, format="png")
        log = "".join(json.dumps(row) + "\n" for row in self.rows)
        files.write(out / "log.jsonl", log.encode())
        save_weights(out / "generator.pt", generator)
        checkpoint = {
            "kind": "checkpoint",
            "config": options_to_save(self.config),
            "fingerprint": self.fingerprint,
            "rows": self.rows
        }
        for name, part in self.parts.items():
            checkpoint[name] = part.state_dict()
        save_weights(out / "checkpoint.pt", checkpoint)
        self.saved_at = time.monotonic()


def _match_strides(optimizer):
    """Give the optimizer's state the strides of its parameters.

    A checkpoint may come from a device with another memory format. With strides that differ from
    its parameter's, fused Adam on the CPU silently computes wrong steps.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value)
