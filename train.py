"""Train the colorizer: some epochs of L1 alone, then a conditional GAN + 100 * L1.

    python train.py --data demo --no-pretrained

The method is pix2pix (Isola et al. 2017), https://arxiv.org/abs/1611.07004, "the paper" below.
"""
import argparse
import time
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F

from pix2pix import data, files
from pix2pix.device import (
    fast_layout, join_processes, keep_freed_memory, keep_near, pick_device, processes, rank_0_first,
    use_bf16, wrap_ddp
)
from pix2pix.metrics import evaluate, gray, mean_losses
from pix2pix.models import Discriminator
from pix2pix.run import Run, initial_generator
from pix2pix.terminal import ArgumentParser, UsageError, UserError, progress, run_program

DEFAULTS = {
    "pretrain_epochs": 20,      # of G alone, on L1
    "gan_epochs": 100,          # after them, of GAN + L1
    "batch_size": 16,           # photos per step and process
    "size": 256,                # side of the pictures in pixels, a multiple of 32
    "lr": 2e-4,                 # of both Adams, whose betas are 0.5 and 0.999
    "l1_weight": 100,           # of L1 against the GAN loss
    "val": 50,                  # validation photos, at most a fifth of all
    "seed": 0,                  # of the split, the initial weights and the order of photos
    "limit": None,              # photos used, validation photos included; None is all
    "restore": False,           # also repair: learn from damaged photos
    "no_pretrained": False,     # start the encoder from noise instead of ImageNet
    "freeze_encoder": False,    # keep the encoder's initial weights
    "precision": "auto",        # fp32, bf16, or the faster one
    "out": None,                # folder of the results; None is runs/<data name>
    "resume": False,
    "save_seconds": 60,         # least time between two saves
    "device": "auto",
    "compile": False
}
# These do not decide the result. All others are a run's config.
NOT_IN_CONFIG = ("out", "resume", "save_seconds", "device", "compile")


def l1_loss(output, target, hole_mask):
    """Mean absolute error of (B, C, H, W).

    Where the mask (B, 1, H, W) is True, errors count 6 times, as holes do in Liu et al. 2018: they
    cover few pixels, and would otherwise contribute almost nothing.
    """
    if hole_mask is None:
        return F.l1_loss(output, target)
    weight = torch.where(hole_mask, 6.0, 1.0).expand_as(target)
    return F.l1_loss(output, target, weight=weight)


def gan_loss(logits, label):
    """Binary cross-entropy of D's logits against one label: 1 is real, 0 is fake."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


def pretrain_step(G, opt_G, L, target, l1_weight, hole_mask=None):
    """Train G on L1 alone: L (B, 1, H, W), target (B, 2 or 3, H, W), mask as of `data.examples`.

    Returns the losses by name, detached.
    """
    l1 = l1_loss(G(L), target, hole_mask)
    opt_G.zero_grad()
    # Adam's steps do not depend on the weight, but Adam remembers the size of gradients. Without
    # it, the 100 times larger ones of the GAN phase would cause a leap in its first steps.
    (l1_weight * l1).backward()
    opt_G.step()
    return {"l1": l1.detach()}


def gan_step(G, D, opt_G, opt_D, L, target, l1_weight, hole_mask=None):
    """One step of D, to tell target from G(L), and one of G, to fool D (paper, section 3.3).

    Inputs as of `pretrain_step`. Returns the losses and D's accuracies by name, detached.
    """
    fake = G(L)                                                 # (B, 2 or 3, H, W)

    real_logits = D(L, target)                                  # (B, 1, 15, 15) at 256x256
    fake_logits = D(L, fake.detach())
    # Halved as in the paper, which makes no difference to Adam.
    d_loss = (gan_loss(real_logits, 1) + gan_loss(fake_logits, 0)) / 2
    opt_D.zero_grad()
    d_loss.backward()
    opt_D.step()

    # G's gradients flow through D, but D's weights need none. Under torchrun, skip the DDP wrapper,
    # which would wait for them.
    frozen_D = getattr(D, "module", D)
    frozen_D.requires_grad_(False)
    g_gan = gan_loss(frozen_D(L, fake), 1)
    l1 = l1_loss(fake, target, hole_mask)
    g_loss = g_gan + l1_weight * l1
    opt_G.zero_grad()
    g_loss.backward()
    opt_G.step()
    frozen_D.requires_grad_(True)

    return {
        "l1": l1.detach(),
        "d_loss": d_loss.detach(),
        "g_gan": g_gan.detach(),
        "d_real_accuracy": (real_logits > 0).float().mean(),
        "d_fake_accuracy": (fake_logits < 0).float().mean()
    }


def fit(run, args, images, train_indices, val_indices):
    """Train the remaining epochs of both phases; evaluate, log and save them."""
    rank, world = processes()
    # phases[epoch]: epoch 0 is the gray baseline, which needs no training.
    phases = ["gray"] + ["pretrain"] * args.pretrain_epochs + ["gan"] * args.gan_epochs
    G = wrap_ddp(run.G)
    D = wrap_ddp(run.D)
    shown = data.gather(images, run.device, val_indices[:8])
    if rank == 0 and not run.rows:
        scores = evaluate(gray, images, val_indices, run.device, args.restore)
        run.rows.append({"phase": "gray", "epoch": 0} | scores)
    elif rank == 0:
        run.save(shown)             # at once, to repair what a kill left and find a full disk

    for epoch in range(max(1, len(run.rows)), len(phases)):
        start = time.perf_counter()
        phase = phases[epoch]
        # All randomness derives from (seed, epoch), for damage also from (rank, step), so a resumed
        # run reproduces an uninterrupted one.
        seed = (args.seed, epoch)
        order, mirrored = data.shuffle(train_indices, args.batch_size, seed, rank, world)
        steps = len(order)
        batches = zip(order.to(images.device), mirrored.to(run.device))
        label = f"{phase} {epoch}/{len(phases) - 1}"
        losses = []
        for step, batch in enumerate(progress(batches, steps, f"{label}: batch"), 1):
            photos = data.gather(images, run.device, *batch)
            L, target, hole_mask = data.examples(photos, args.restore, (*seed, rank, step))
            with run.autocast:
                if phase == "pretrain":
                    loss = pretrain_step(G, run.opt_G, L, target, args.l1_weight, hole_mask)
                else:
                    loss = gan_step(
                        G, D, run.opt_G, run.opt_D, L, target, args.l1_weight, hole_mask
                    )
            run.update_ema((epoch - 1) * steps + step)
            losses.append(loss)
        if rank > 0:                # rank 0 alone evaluates, saves and prints
            continue

        means = mean_losses(losses)
        seconds = time.perf_counter() - start
        row = {"phase": phase, "epoch": epoch, "seconds": seconds}
        row["pictures_per_second"] = order.numel() * world / seconds
        with run.autocast:
            scores = evaluate(run.ema.predict, images, val_indices, run.device, args.restore)
        run.log(row | means | scores, label)
        phase_ends = phases[epoch:epoch + 2] != [phase, phase]
        if phase_ends or time.monotonic() - run.saved_at >= args.save_seconds:
            run.save(shown)


def build_parser():
    """The parser. It leaves out what is not typed, so that a resumed run keeps its options."""
    parser = ArgumentParser(
        prog="train.py", description=__doc__.splitlines()[0], argument_default=argparse.SUPPRESS
    )

    def add(name, help, **kind):
        default = DEFAULTS.get(name)
        shown = f" ({default})" if default else ""
        parser.add_argument(_flag(name), help=help + shown, **kind)

    add("data", "groups, coco, demo or a folder of photos", required=True)
    add("out", "output folder (runs/<data name>)", type=Path)
    add("pretrain_epochs", "epochs of G alone, on L1", type=int)
    add("gan_epochs", "epochs of GAN + L1 after them", type=int)
    add("batch_size", "photos per step and process", type=int)
    add("size", "side of the pictures in pixels, a multiple of 32", type=int)
    add("lr", "learning rate of both Adams", type=float)
    add("l1_weight", "weight of L1 against the GAN loss", type=float)
    add("val", "validation photos, at most a fifth of all", type=int)
    add("seed", "of the split, the initial weights and the order of photos", type=int)
    add("limit", "photos used, validation photos included (all)", type=int)
    add("restore", "also repair: learn from damaged photos", action="store_true")
    add("no_pretrained", "start from noise instead of ImageNet's weights", action="store_true")
    add("freeze_encoder", "keep the encoder's initial weights", action="store_true")
    add("compile", "torch.compile both networks; needs a C++ compiler", action="store_true")
    add("resume", "continue from checkpoint.pt in --out, if there is one", action="store_true")
    add("save_seconds", "least time between two saves", type=float)
    add("device", "cpu, cuda:1, mps ..., or auto: cuda if there is one, else cpu")
    add("precision", "auto: the faster one", choices=("auto", "fp32", "bf16"))
    return parser


def parse_options(argv):
    """The options as a namespace, and the checkpoint to resume, or None.

    Raises UserError if they make no sense or contradict the run in the output folder.
    """
    typed = vars(build_parser().parse_args(argv))
    typed["data"] = str(Path(typed["data"]))
    typed.setdefault("out", Path("runs", Path(typed["data"]).resolve().name))
    checkpoint = typed["out"] / "checkpoint.pt"
    saved = None
    config = {}
    if checkpoint.exists():
        if "resume" not in typed:
            raise UserError(f"{typed['out']} holds a run: continue it with --resume, or choose "
                            "another --out")
        saved = files.load_saved(checkpoint, "checkpoint")
        config = saved["config"]
        may_change = ["gan_epochs"]
        if saved["rows"][-1]["phase"] != "gan":
            may_change.append("pretrain_epochs")
        for name, value in config.items():
            if typed.get(name, value) != value and name not in may_change:
                raise UsageError(
                    f"{_flag(name)} {typed[name]} contradicts the run to resume: {value}"
                )
    args = SimpleNamespace(**DEFAULTS | config | typed)
    if args.size % 32:
        raise UsageError(f"--size {args.size} is not a multiple of 32")
    epochs = (args.pretrain_epochs, args.gan_epochs)
    if min(epochs) < 0 or max(epochs) == 0:
        raise UsageError("--pretrain-epochs and --gan-epochs are 0 or more, and not both 0")
    for name in ("size", "batch_size", "lr", "l1_weight", "limit", "val"):
        value = getattr(args, name)
        if value is not None and not value > 0:         # also refuses NaN
            raise UsageError(f"{_flag(name)} {value} is not above 0")
    return args, saved


def _flag(name):
    return "--" + name.replace("_", "-")


def prepare(args, saved):
    """Everything that `fit` needs: the run, the images, training and validation indices."""
    keep_freed_memory()
    device = pick_device(args.device)
    bf16 = use_bf16(args.precision, device)
    join_processes(device)
    torch.manual_seed(args.seed % 2**63)        # accepts any integer
    with rank_0_first():
        G = initial_generator(args.restore, pretrained=not (args.no_pretrained or saved))
        D = Discriminator(target_channels=3 if args.restore else 2)
        images, skipped, fingerprint = data.load_photos(args.data, args.size, args.limit)
    if saved and saved["fingerprint"] != fingerprint:
        raise UserError(f"{args.data} has changed since: start again with another --out")
    # Before any batch, from the seed and the number of photos alone. There are no duplicates, so
    # no photo is both trained on and validated on, not even in a resumed run.
    train_indices, val_indices = data.split(len(images), args.val, args.seed)
    if processes()[0] == 0:
        lines = "\n".join(f"{name}\t{reason}" for name, reason in skipped)
        files.write(args.out / "skipped.txt", lines.encode(errors="backslashreplace"))
        print(f"{len(train_indices)} photos to train on, {len(val_indices)} to validate on, "
              f"{len(skipped)} skipped ({args.out}/skipped.txt)")

    # A frozen encoder's weights stay, but its BatchNorm still normalizes by the batch and updates
    # its running statistics.
    G.encoder.requires_grad_(not args.freeze_encoder)
    for net in (G, D):
        net.to(device, memory_format=fast_layout(device, bf16))
    config = {name: value for name, value in vars(args).items() if name not in NOT_IN_CONFIG}
    run = Run(G, D, config, fingerprint, args.out, bf16)
    if saved:
        run.load(saved)
    if args.compile:                            # not the EMA, which no step calls
        G.compile()
        D.compile()
    images = keep_near(images, device)
    return run, images, train_indices, val_indices.to(images.device)


def train(argv):
    args, saved = parse_options(argv)
    run, images, train_indices, val_indices = prepare(args, saved)
    fit(run, args, images, train_indices, val_indices)
    rank, world = processes()
    if world > 1:
        torch.distributed.destroy_process_group()
    if rank == 0:
        print(f"done: see {args.out}/samples, and try python infer.py IN.jpg OUT.jpg "
              f"--checkpoint {args.out}/generator.pt")
    return 0


def main(argv=None):
    return run_program(
        train, argv,
        if_interrupted="the same command with --resume continues after the last saved epoch",
        if_out_of_memory="try a smaller --batch-size"
    )


if __name__ == "__main__":
    raise SystemExit(main())
