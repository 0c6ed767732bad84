"""Train the colorizer: some epochs of L1 alone, then of a conditional GAN + 100 * L1.

    python train.py --data demo --no-pretrained

The method is pix2pix (Isola et al. 2017), https://arxiv.org/abs/1611.07004: "the paper" below.
"""
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from pix2pix import data, files
from pix2pix.damage import examples
from pix2pix.device import (
    fast_layout, first_process_first, join_processes, keep_freed_memory, keep_near, pick_device,
    share_gradients, use_bf16
)
from pix2pix.metrics import evaluate, gray
from pix2pix.models import Discriminator, Generator
from pix2pix.run import Run
from pix2pix.terminal import ArgumentParser, UserError, progress, run_program

# Options that do not decide the result; the others are the run's config.
FREE_OPTIONS = ("out", "resume", "device", "compile", "save_seconds")


def l1_loss(output, target, lost):
    """Mean absolute error of (B, C, H, W).

    Where the mask (B, 1, H, W) is True it counts 6 times, as holes do in Liu et al. 2018: being few
    of the pixels, what is lost would hardly teach anything.
    """
    if lost is None:
        return F.l1_loss(output, target)
    weight = torch.where(lost, 6.0, 1.0).expand_as(target)
    return F.l1_loss(output, target, weight=weight)


def gan_loss(logits, label):
    """Binary cross-entropy of D's logits with one label for all: 1 is real, 0 is fake."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


def pretrain_step(G, opt_G, L, target, l1_weight, lost=None):
    """G alone, on L1. L (B, 1, H, W), target (B, 2 or 3, H, W) and lost as `examples` gives them.

    Returns the losses, detached, by name.
    """
    l1 = l1_loss(G(L), target, lost)
    opt_G.zero_grad()
    # Adam's steps do not depend on the weight, but it remembers how large gradients are: those of
    # the GAN phase, if 100 times as large, would in its first steps undo what G has learned.
    (l1_weight * l1).backward()
    opt_G.step()
    return {"l1": l1.detach()}


def gan_step(G, D, opt_G, opt_D, L, target, l1_weight, lost=None):
    """D learns to tell target from G(L), then G to deceive D, a step each (paper, section 3.3).

    L, target and lost as in `pretrain_step`. Returns losses and D's accuracies, detached, by name.
    """
    fake = G(L)                                                 # (B, 2 or 3, H, W)

    real_logits = D(L, target)                                  # (B, 1, 15, 15) at 256x256
    fake_logits = D(L, fake.detach())
    d_loss = (gan_loss(real_logits, 1) + gan_loss(fake_logits, 0)) / 2      # halved: it slows D
    opt_D.zero_grad()
    d_loss.backward()
    opt_D.step()

    # Now D only judges: gradients go through it to G, but none to its weights, which stay.
    judge = getattr(D, "module", D)             # under torchrun, without the wait for all gradients
    judge.requires_grad_(False)
    g_gan = gan_loss(judge(L, fake), 1)
    l1 = l1_loss(fake, target, lost)
    g_loss = g_gan + l1_weight * l1
    opt_G.zero_grad()
    g_loss.backward()
    opt_G.step()
    judge.requires_grad_(True)

    return {
        "l1": l1.detach(),
        "d_loss": d_loss.detach(),
        "g_gan": g_gan.detach(),
        "d_real_accuracy": (real_logits > 0).float().mean(),
        "d_fake_accuracy": (fake_logits < 0).float().mean()
    }


def train_epoch(run, G, D, batches, phase, epoch, steps, rank):
    """Train on `steps` batches of uint8 photos (B, 3, S, S); the means of the losses, by name.

    G and D are the run's, or what the processes of torchrun share of them.
    """
    weight = run.config["l1_weight"]
    totals = {}
    for step, photos in enumerate(batches, 1):
        photos = photos.to(run.device)
        damage_seed = (run.config["seed"], epoch, rank, step)
        L, target, lost = examples(photos, run.G.repairs, damage_seed)
        if phase == "pretrain":
            losses = pretrain_step(G, run.opt_G, L, target, weight, lost)
        else:
            losses = gan_step(G, D, run.opt_G, run.opt_D, L, target, weight, lost)
        run.update_average((epoch - 1) * steps + step)
        for name, loss in losses.items():
            totals[name] = totals.get(name, 0) + loss
    means = torch.stack(list(totals.values())) / steps
    return dict(zip(totals, means.tolist()))        # tolist: an epoch's one wait for the GPU


def fit(run, images, train_indices, val_indices, save_seconds, rank, world):
    """The loop of both phases: from the epoch after the run's last to the last of all."""
    config = run.config
    phases = ["gray"]               # of each epoch: number 0, the baseline, needs no training
    phases += ["pretrain"] * config["pretrain_epochs"]
    phases += ["gan"] * config["gan_epochs"]
    batch_size = config["batch_size"]
    steps = data.steps_per_epoch(len(train_indices), batch_size, world)
    shown = images[val_indices[:8]].to(run.device)
    G = share_gradients(run.G)
    D = share_gradients(run.D)

    def judge(predict):
        held_out = data.batches(images, val_indices, 16)        # so that all runs compare
        return evaluate(predict, held_out, run.device, run.G.repairs)

    if rank == 0 and not run.rows:
        run.rows.append({"phase": "gray", "epoch": 0} | judge(gray))
    elif rank == 0:
        run.save(shown)             # at once: it mends what a kill left, and finds a full disk
    saved_at = time.monotonic()
    # rows[0] is gray's, rows[epoch] that of an epoch.
    for epoch in range(max(1, len(run.rows)), len(phases)):
        start = time.perf_counter()
        phase = phases[epoch]
        label = f"{phase} {epoch}/{len(phases) - 1}"
        # All that is random in an epoch comes from the seed and its number (damage: and from rank
        # and step): a resumed run equals one that never stopped.
        seed = (config["seed"], epoch)
        batches = data.batches(images, train_indices, batch_size, seed, rank, world)
        batches = progress(batches, steps, f"{label}: batch")
        losses = train_epoch(run, G, D, batches, phase, epoch, steps, rank)
        if rank > 0:                # the first process alone evaluates, writes and prints
            continue
        seconds = time.perf_counter() - start
        photos = min(steps * batch_size * world, len(train_indices))
        row = {"phase": phase, "epoch": epoch, "seconds": seconds}
        row |= {"pictures_per_second": photos / seconds} | losses | judge(run.average.predict)
        if not math.isfinite(sum(losses.values()) + row["ab_error"]):
            raise UserError(f"epoch {epoch}: the loss is not finite: begin anew with a lower --lr")
        run.rows.append(row)
        phase_ends = epoch + 1 == len(phases) or phases[epoch + 1] != phase
        if phase_ends or time.monotonic() - saved_at >= save_seconds:
            run.save(shown)
            saved_at = time.monotonic()
        print(f"{label}: l1 {row['l1']:.4f}; held out: ab error {row['ab_error']:.2f} "
              f"(gray {run.rows[0]['ab_error']:.2f}), PSNR {row['psnr']:.2f} dB; {seconds:.0f} s",
              flush=True)


def parse_options(argv, saved=None):
    """The options; what is not given is as in `saved`, the checkpoint to resume, or the default.

    Raises UsageError where they make no sense, or contradict that run.
    """
    parser = ArgumentParser(prog="train.py", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", required=True, help="groups, coco, demo or a folder of photos")
    add("--out", type=Path, help="folder of the results (default: runs/<data name>)")
    add("--pretrain-epochs", type=int, default=20, help="epochs of G alone, on L1 (20)")
    add("--gan-epochs", type=int, default=100, help="epochs of GAN + L1 after them (100)")
    add("--batch-size", type=int, default=16, help="photos a step and process (16)")
    add("--size", type=int, default=256, help="side of pictures, pixels, a multiple of 32 (256)")
    add("--lr", type=float, default=2e-4, help="learning rate of both Adams (2e-4)")
    add("--l1-weight", type=float, default=100, help="weight of L1 against the GAN's loss (100)")
    add("--val", type=int, default=50, help="photos held out, at most a fifth of all (50)")
    add("--seed", type=int, default=0, help="of split, first weights and order of photos (0)")
    add("--limit", type=int, help="photos used in all, held-out ones included (every one)")
    add("--restore", action="store_true", help="repair, too: learn from damaged photos")
    add("--no-pretrained", action="store_true", help="no ImageNet weights: start from noise")
    add("--freeze-encoder", action="store_true", help="leave the encoder's weights as they start")
    add("--compile", action="store_true", help="torch.compile both networks: needs a C++ compiler")
    add("--resume", action="store_true", help="go on from checkpoint.pt in --out, or begin")
    add("--save-seconds", type=float, default=60, help="least time between saves (60)")
    add("--device", default="auto", help="auto (cuda, else cpu), cpu, cuda:1, mps ...")
    add("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="auto: the faster")
    if saved:
        parser.set_defaults(**saved["config"])
    args = parser.parse_args(argv)
    args.data = str(Path(args.data))
    if args.size % 32:
        parser.error(f"--size {args.size} is not a multiple of 32")
    epochs = (args.pretrain_epochs, args.gan_epochs)
    if min(epochs) < 0 or max(epochs) == 0:
        parser.error("--pretrain-epochs and --gan-epochs are 0 or more, and not both 0")
    for name in ("size", "batch_size", "lr", "l1_weight", "limit", "val"):
        value = getattr(args, name)
        if value is not None and not value > 0:         # so that NaN is not, either
            parser.error(f"{_flag(name)} {value} is not above 0")
    if saved:
        _check_unchanged(args, saved, parser.error)
    return args


def _check_unchanged(args, saved, error):
    """A resumed run keeps its options; only epochs may grow, those of L1 before the GAN phase."""
    growing = ["gan_epochs"]
    if saved["rows"][-1]["phase"] != "gan":
        growing.append("pretrain_epochs")
    for name, value in sorted(saved["config"].items()):
        given = getattr(args, name)
        has_grown = name in growing and given > value
        if given != value and not has_grown:
            error(f"{_flag(name)} {given} contradicts the run to resume: {value}")


def _flag(name):
    return "--" + name.replace("_", "-")


def train(argv):
    args = parse_options(argv)
    out = args.out or Path("runs", Path(args.data).resolve().name)
    saved = None
    if (out / "checkpoint.pt").exists():
        if not args.resume:
            raise UserError(f"{out} holds a run: --resume goes on with it, or name another --out")
        saved = files.load_saved(out / "checkpoint.pt", "checkpoint")
        args = parse_options(argv, saved)
    config = {name: value for name, value in vars(args).items() if name not in FREE_OPTIONS}

    keep_freed_memory()
    device = pick_device(args.device)
    bf16 = use_bf16(args.precision, device)
    rank, world = join_processes(device)
    torch.manual_seed(args.seed % 2**63)        # any integer will do
    with first_process_first(rank, world):      # the others find what it downloads and prepares
        G = Generator(pretrained=not args.no_pretrained and not saved, repairs=args.restore)
        G.encoder.requires_grad_(not args.freeze_encoder)
        D = Discriminator(target_channels=3 if args.restore else 2)
        images, skipped, identity = data.load_photos(args.data, args.size, args.limit)
    if saved and saved["identity"] != identity:
        raise UserError(f"{args.data} has changed since: begin another --out")
    # From the seed and the number of photos, before any batch: no photo, of which there are no
    # duplicates, is ever both trained on and held out, and none changes sides in a resumed run.
    train_indices, val_indices = data.split(len(images), args.val, args.seed)
    if rank == 0:
        lines = "\n".join(f"{name}\t{reason}" for name, reason in skipped)
        files.write(out / "skipped.txt", lines.encode(errors="backslashreplace"))
        print(f"{len(train_indices)} photos to train on, {len(val_indices)} held out, "
              f"{len(skipped)} left out ({out}/skipped.txt)")

    for net in (G, D):
        net.to(device, memory_format=fast_layout(device, bf16))
    run = Run(G, D, config, identity, out)
    if saved:
        run.load(saved)
    if args.compile:                            # the average stays as it is: no step calls it
        G.compile()
        D.compile()
    # Without autocast's cache, which would hold weights from before a step.
    with torch.autocast(device.type, torch.bfloat16, bf16, cache_enabled=False):
        images = keep_near(images, device)
        fit(run, images, train_indices, val_indices, args.save_seconds, rank, world)
    if world > 1:
        torch.distributed.destroy_process_group()
    if rank == 0:
        print(f"done: look at {out}/samples, and try python infer.py IN.jpg OUT.jpg "
              f"--checkpoint {out}/generator.pt")
    return 0


def main(argv=None):
    return run_program(
        train, argv,
        if_interrupted="the same command with --resume goes on after the last saved epoch",
        if_out_of_memory="try a smaller --batch-size"
    )


if __name__ == "__main__":
    raise SystemExit(main())
