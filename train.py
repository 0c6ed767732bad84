"""Train the colorizer: some epochs of L1 alone, then a conditional GAN + 100 * L1.

    python train.py --data demo --no-pretrained --size 96 --pretrain-epochs 3 --gan-epochs 3

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
from pix2pix.metrics import evaluate, mean_losses
from pix2pix.models import Discriminator, Generator
from pix2pix.run import Run, find_checkpoint, initial_generator
from pix2pix.terminal import ArgumentParser, UsageError, UserError, flag, progress, run_program

OPTIONS = {                     # name: default, help
    "out": ("", "output folder, outside the photos (runs/<data name>)"),
    "pretrain_epochs": (20, "epochs of G alone, on L1"),
    "gan_epochs": (100, "epochs of GAN + L1 after them"),
    "batch_size": (16, "photos per step and process"),
    "size": (256, "side of the pictures in pixels, a multiple of 32"),
    "lr": (2e-4, "learning rate of both Adam optimizers"),
    "l1_weight": (100.0, "weight of L1 against the GAN loss"),
    "val": (50, "validation photos, at most a fifth of all"),
    "limit": (0, "photos used, validation photos included; 0 is all"),
    "seed": (0, "seed of the split, the initial weights and the order of photos (0)"),
    "restore": ("", "teach this trained generator.pt to repair, for infer.py --repair"),
    "no_pretrained": (False, "start from noise instead of ImageNet's weights"),
    "init_from": ("", "start from a trained generator.pt, to fine-tune it"),
    "freeze_encoder": (False, "keep the encoder's initial weights"),
    "precision": ("auto", "auto: bf16 if the device multiplies it natively"),
    "device": ("auto", "cpu, cuda:1, mps ..., or auto: cuda if there is one, else cpu"),
    "resume": (False, "continue from checkpoint.pt in --out, if there is one"),
    "save_seconds": (60.0, "least seconds between two saves")
}
# These do not decide what is trained. The others, and data, are saved as the run's config.
NOT_IN_CONFIG = ("out", "device", "resume", "save_seconds")


def l1_loss(output, target):
    """Mean absolute error of ab (B, 2, H, W), or of a repair (B, 1, H, W).

    Of a repair, errors in holes count 12 times: they cover few pixels, and would otherwise
    contribute almost nothing. (Liu et al. 2018 use 6. With 12, more of real cracks is repaired.)
    """
    if target.shape[1] == 2:
        return F.l1_loss(output, target)
    weight = torch.where(target == 0, 1.0, 12.0)
    return F.l1_loss(output, target, weight=weight)


def gan_loss(logits, label):
    """Binary cross-entropy of D's logits against one label: 1 is real, 0 is fake."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


def pretrain_step(G, opt_G, L, target, l1_weight):
    """Train G on L1 alone: L (B, 1, H, W), target (B, 2 or 1, H, W) of `data.examples`.

    Returns the losses by name, detached.
    """
    l1 = l1_loss(G(L), target)
    opt_G.zero_grad()
    # The weight does not change Adam's steps, but Adam remembers the size of gradients. Without the
    # weight here, the first steps of the GAN phase would be far too large.
    (l1_weight * l1).backward()
    opt_G.step()
    return {"l1": l1.detach()}


def gan_step(G, D, opt_G, opt_D, L, target, l1_weight):
    """One step of D, to tell target from G(L), and one of G, to fool D (paper, section 3.3).

    Inputs as in `pretrain_step`. Returns the losses and D's accuracies by name, detached.
    """
    fake = G(L)                                                 # (B, 2 or 1, H, W)

    real_logits = D(L, target)                                  # (B, 1, 15, 15) at 256x256
    fake_logits = D(L, fake.detach())
    # Halved as in the paper, which makes no difference to Adam.
    d_loss = (gan_loss(real_logits, 1) + gan_loss(fake_logits, 0)) / 2
    opt_D.zero_grad()
    d_loss.backward()
    opt_D.step()

    # G's gradients flow through D, but D's own weights stay. Under torchrun, this bypasses D's DDP
    # wrapper, which would wait for gradients that never come.
    frozen_D = getattr(D, "module", D)
    frozen_D.requires_grad_(False)
    g_gan = gan_loss(frozen_D(L, fake), 1)
    l1 = l1_loss(fake, target)
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
    # phases[epoch]: epoch 0 is the baseline, no color or no repair, which needs no training.
    phases = ["gray"] + ["pretrain"] * args.pretrain_epochs + ["gan"] * args.gan_epochs
    G = wrap_ddp(run.G)
    D = wrap_ddp(run.D)
    shown = data.gather(images, run.device, val_indices[:8])
    if rank == 0 and not run.rows:
        scores = evaluate(torch.zeros_like, images, val_indices, run.device, args.restore)
        run.rows.append({"phase": "gray", "epoch": 0} | scores)
    elif rank == 0:
        run.save(shown)             # repairs files left by a kill, and notices a full disk early

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
        for step, batch in enumerate(progress(batches, steps, label), 1):
            photos = data.gather(images, run.device, *batch)
            L, target = data.examples(photos, args.restore, (*seed, rank, step))
            with run.autocast:
                if phase == "pretrain":
                    loss = pretrain_step(G, run.opt_G, L, target, args.l1_weight)
                else:
                    loss = gan_step(G, D, run.opt_G, run.opt_D, L, target, args.l1_weight)
            run.update_ema((epoch - 1) * steps + step)
            losses.append(loss)
        if rank > 0:                # rank 0 alone evaluates, saves and prints
            continue

        means = mean_losses(losses)
        seconds = time.perf_counter() - start
        row = {"phase": phase, "epoch": epoch, "seconds": seconds}
        row["pictures_per_second"] = order.numel() * world / seconds
        with run.autocast:
            scores = evaluate(run.ema, images, val_indices, run.device, args.restore)
        run.log(row | means | scores, label)
        phase_ends = epoch in (args.pretrain_epochs, len(phases) - 1)
        if phase_ends or time.monotonic() - run.saved_at >= args.save_seconds:
            run.save(shown)


def parse_options(argv):
    """The options as a namespace, and the checkpoint to resume, or None.

    Typed options win. The others come from the checkpoint, or else are the defaults. Raises
    UserError if they make no sense or contradict the checkpoint.
    """
    parser = ArgumentParser(
        prog="train.py", description=__doc__.splitlines()[0], argument_default=argparse.SUPPRESS
    )
    help = f"{data.NAMED_SETS} or a folder of photos"
    parser.add_argument("--data", required=True, help=help)
    for name, (default, help) in OPTIONS.items():
        if default is False:
            parser.add_argument(flag(name), action="store_true", help=help)
        else:
            help += f" ({default})" if default else ""
            choices = ("auto", "fp32", "bf16") if name == "precision" else None
            parser.add_argument(flag(name), type=type(default), choices=choices, help=help)
    typed = vars(parser.parse_args(argv))
    typed["data"] = str(Path(typed["data"]))
    typed["out"] = Path(typed.get("out") or f"runs/{Path(typed['data']).resolve().name}")
    saved = find_checkpoint(typed)
    defaults = {name: default for name, (default, _) in OPTIONS.items()}
    args = SimpleNamespace(**defaults | (saved["config"] if saved else {}) | typed)
    if args.restore and args.init_from:
        raise UsageError("--restore and --init-from both name the generator to start from")
    if args.size % 32:
        raise UsageError(f"--size {args.size} is not a multiple of 32")
    if args.size == 32 and args.batch_size == 1:
        raise UsageError("--size 32 needs a --batch-size of 2 or more: BatchNorm cannot normalize "
                         "a single value")
    if min(args.pretrain_epochs, args.gan_epochs, args.limit) < 0:
        raise UsageError("--pretrain-epochs, --gan-epochs and --limit are 0 or more")
    if args.pretrain_epochs + args.gan_epochs == 0:
        raise UsageError("--pretrain-epochs and --gan-epochs are both 0")
    for name in ("size", "batch_size", "lr", "l1_weight", "val"):
        value = getattr(args, name)
        if not value > 0:                               # also refuses NaN
            raise UsageError(f"{flag(name)} {value} is not above 0")
    return args, saved


def prepare(args, saved):
    """Everything that `fit` needs: the run, the images, training and validation indices."""
    keep_freed_memory()
    device = pick_device(args.device)
    bf16 = use_bf16(args.precision, device)
    join_processes(device)
    torch.manual_seed(args.seed % 2**63)        # accepts any integer
    with rank_0_first():
        G = Generator(False, bool(args.restore)) if saved else initial_generator(args)
        D = Discriminator(target_channels=1 if args.restore else 2)
        images, skipped, fingerprint = data.load_photos(args.data, args.size, args.limit)
    if saved and saved["fingerprint"] != fingerprint:
        raise UserError(f"{args.data} has changed since: undo that (is --out among the photos?), "
                        "or start again with another --out")
    # Before any batch, from the seed, --val and the number of photos alone. Exact duplicates are
    # gone, so no photo is both trained on and validated on, not even in a resumed run.
    train_indices, val_indices = data.split(len(images), args.val, args.seed)
    if processes()[0] == 0:
        lines = "\n".join(f"{name}\t{reason}" for name, reason in skipped)
        files.write(args.out / "skipped.txt", lines.encode(errors="backslashreplace"))
        print(f"{len(train_indices)} photos to train on, {len(val_indices)} to validate on, "
              f"{len(skipped)} skipped ({args.out}/skipped.txt)")

    # Its weights stay, but its BatchNorm still normalizes by the batch and updates its running
    # statistics.
    if args.freeze_encoder:
        G.encoder.requires_grad_(False)
    for net in (G, D):
        net.to(device, memory_format=fast_layout(device, bf16))
    config = {name: value for name, value in vars(args).items() if name not in NOT_IN_CONFIG}
    run = Run(G, D, config, fingerprint, args.out, bf16)
    if saved:
        run.load(saved)
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
        print(run.verdict())
    return 0


def main(argv=None):
    return run_program(
        train, argv,
        if_interrupted="the same command with --resume continues after the last saved epoch",
        if_out_of_memory="try a smaller --batch-size, with --resume if the run has begun"
    )


if __name__ == "__main__":
    raise SystemExit(main())
