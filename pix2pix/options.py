"""The options of train.py: their help and checks, and the checkpoint that --resume continues."""
import argparse
import re
from pathlib import Path
from types import SimpleNamespace

from pix2pix.data import NAMED_SETS
from pix2pix.device import processes
from pix2pix.models import ENCODER
from pix2pix.terminal import ArgumentParser, UsageError, UserError
from pix2pix.weights import load_saved

HELP = {
    "out": "output folder, outside the photos (runs/<data name>)",
    "pretrain_epochs": "epochs of G alone, on L1",
    "gan_epochs": "epochs of GAN + L1 after them",
    "batch_size": "photos per step and process",
    "size": "side of the pictures in pixels, a multiple of 32",
    "lr": "learning rate of both Adam optimizers",
    "l1_weight": "weight of L1 against the GAN loss",
    "old_film": "train on L as old film would have seen the photos",
    "repeat": "SUBFOLDER=K: use the photos in this subfolder K times an epoch",
    "val": "validation photos, at most a fifth of all",
    "limit": "photos used, validation photos included; 0 is all (coco: 7,750)",
    "seed": "seed of the split, the initial weights and the order of photos (0)",
    "no_pretrained": "start from random weights instead of ImageNet's",
    "init_from": "start from a trained generator.pt, to fine-tune it",
    "freeze_encoder": "keep the encoder's initial weights",
    "restore": "teach this trained generator.pt to repair, for infer.py --repair",
    "precision": "auto: bf16 if the device multiplies it natively",
    "device": "cpu, cuda:1, mps ..., or auto: cuda if there is one, else cpu",
    "resume": "continue from checkpoint.pt in --out, if there is one",
    "save_seconds": "least seconds between two saves, except at the end of a phase"
}
DEFAULTS = {                    # those of the algorithm are in train.py
    "out": "",
    "old_film": False,
    "repeat": "",
    "val": 50,
    "limit": 0,
    "seed": 0,
    "no_pretrained": False,
    "init_from": "",
    "freeze_encoder": False,
    "restore": "",
    "precision": "auto",
    "device": "auto",
    "resume": False,
    "save_seconds": 60.0
}
MAY_CHANGE = ("data", "batch_size", "gan_epochs")       # at --resume


def parse_options(argv, description, hyperparameters):
    """The configuration as a namespace, and the checkpoint to resume, or None.

    Typed options win. The others come from the checkpoint, or else are the defaults. Raises
    UserError if they make no sense or contradict the checkpoint.
    """
    defaults = hyperparameters | DEFAULTS
    typed = vars(_parser(description, defaults).parse_args(argv))
    typed["data"] = str(Path(typed["data"]))
    typed["out"] = Path(typed.get("out") or f"runs/{Path(typed['data']).resolve().name}")
    saved = _find_checkpoint(typed)
    saved_options = saved["config"] if saved else {}
    config = SimpleNamespace(**defaults | {"encoder": ENCODER} | saved_options | typed)
    _check(config, typed)
    for name in ("restore", "init_from"):           # before photos are downloaded
        if name in typed and not saved and not Path(typed[name]).is_file():
            raise UserError(f"{flag(name)} {typed[name]}: no such file")
    return config, saved


def flag(name):
    """The option of a name: "batch_size" -> "--batch-size"."""
    return "--" + name.replace("_", "-")


def _parser(description, defaults):
    parser = ArgumentParser(
        prog="train.py", description=description, argument_default=argparse.SUPPRESS
    )
    parser.add_argument("--data", required=True, help=f"{NAMED_SETS} or a folder of photos")
    for name, help in HELP.items():
        default = defaults[name]
        if default is False:
            parser.add_argument(flag(name), action="store_true", help=help)
        else:
            help += f" ({default})" if default else ""
            choices = ("auto", "fp32", "bf16") if name == "precision" else None
            parser.add_argument(flag(name), type=type(default), choices=choices, help=help)
    return parser


def _find_checkpoint(typed):
    """The checkpoint to resume, or None. `typed` are the options that were typed, a dict.

    Raises UserError if there is one but no --resume, or if the options contradict it.
    """
    path = typed["out"] / "checkpoint.pt"
    if not path.exists():
        if "resume" in typed and processes()[0] == 0:
            print(f"there is no {path} to resume: training starts from the beginning")
        return None
    if "resume" not in typed:
        raise UserError(f"{path} exists: continue its run with --resume, or choose another --out")
    saved = load_saved(path, "checkpoint")
    for name, value in saved["config"].items():
        if typed.get(name, value) == value:
            continue
        if name not in MAY_CHANGE:
            raise UsageError(f"{flag(name)} {typed[name]} contradicts the run to resume: {value}")
        if processes()[0] == 0:
            effect = ", so the result will differ" if name == "batch_size" else ""
            print(f"{flag(name)} changes from {value} to {typed[name]}{effect}")
    return saved


def _check(config, typed):
    """Raise UsageError if the options make no sense."""
    if config.restore and config.init_from:
        raise UsageError("--restore and --init-from both name the generator to start from")
    for name in ("gan_epochs", "old_film", "freeze_encoder"):
        if config.restore and name in typed:
            raise UsageError(f"{flag(name)} has no meaning for --restore: leave it out")
    if config.repeat and not re.fullmatch(r".+=[1-9]\d*", config.repeat):
        raise UsageError(f"--repeat {config.repeat} is not of the form SUBFOLDER=K")
    if config.restore and config.pretrain_epochs == 0:
        raise UsageError("--restore needs --pretrain-epochs of 1 or more")
    out = config.out.resolve()
    folders = (out, *out.parents)
    if Path(config.data).resolve() in folders and Path("runs").resolve() not in folders:
        raise UsageError(f"--out {config.out} lies among the photos: choose a folder outside them")
    if config.size % 32:
        raise UsageError(f"--size {config.size} is not a multiple of 32")
    if config.size == 32 and config.batch_size == 1:
        raise UsageError("--size 32 needs a --batch-size of 2 or more: BatchNorm cannot normalize "
                         "a single value")
    if min(config.pretrain_epochs, config.gan_epochs, config.limit) < 0:
        raise UsageError("--pretrain-epochs, --gan-epochs and --limit are 0 or more")
    if config.pretrain_epochs + config.gan_epochs == 0:
        raise UsageError("--pretrain-epochs and --gan-epochs are both 0")
    for name in ("size", "batch_size", "lr", "l1_weight", "val"):
        value = getattr(config, name)
        if not value > 0:                               # also refuses NaN
            raise UsageError(f"{flag(name)} {value} is not above 0")