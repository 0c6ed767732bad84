"""Train the colorizer: some epochs of L1 alone, then a conditional GAN + 100 * L1.

    python train.py --data demo --no-pretrained --size 96 --batch-size 4 --lr 5e-4 \
        --pretrain-epochs 3 --gan-epochs 3

The method is pix2pix (Isola et al. 2017), https://arxiv.org/abs/1611.07004, "the paper" below.
"""
import copy
import time

import torch
import torch.nn.functional as F
from torch.optim import Adam

from pix2pix.color import encode, no_color
from pix2pix.data import batches, gather, load_split
from pix2pix.device import processes, rank_0_first, set_up, unwrap_ddp, wrap_ddp
from pix2pix.film import film_L, film_error
from pix2pix.metrics import evaluate, mean_losses, samples
from pix2pix.models import Discriminator, update_ema
from pix2pix.options import parse_options
from pix2pix.repair import train_repairs
from pix2pix.run import Run
from pix2pix.terminal import run_program
from pix2pix.weights import generator_file, initial_generator, save_weights

HYPERPARAMETERS = {             # options, such as --batch-size; see options.HELP
    "size": 256,
    "batch_size": 16,
    "pretrain_epochs": 20,
    "gan_epochs": 100,
    "lr": 2e-4,
    "l1_weight": 100.0
}


def gan_loss(logits, label):
    """Binary cross-entropy of D's logits against one label: 1 is real, 0 is fake."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


def pretrain_step(G, opt_G, L, ab, l1_weight, autocast):
    """Train G on L1 alone: L (B, 1, H, W) in [0, 1], ab (B, 2, H, W) in [-1, 1].

    Networks are called in the context `autocast`. Returns the losses by name, detached.
    """
    with autocast:
        fake = G(L)                                             # (B, 2, H, W)
    l1 = F.l1_loss(fake, ab)
    opt_G.zero_grad()
    # The weight does not change Adam's steps, but Adam remembers the size of gradients. Without the
    # weight here, the first steps of the GAN phase would be far too large.
    (l1_weight * l1).backward()
    opt_G.step()
    return {"l1": l1.detach()}


def gan_step(G, D, opt_G, opt_D, L, ab, l1_weight, autocast):
    """One step of D, to tell ab from G(L), and one of G, to fool D (paper, section 3.3).

    Inputs as in `pretrain_step`. Returns the losses and D's accuracies by name, detached.
    """
    with autocast:
        fake = G(L)                                             # (B, 2, H, W)
        real_logits = D(L, ab)                                  # (B, 1, 15, 15) at 256x256
        fake_logits = D(L, fake.detach())
    # Halved as in the paper, which makes no difference to Adam.
    d_loss = (gan_loss(real_logits, 1) + gan_loss(fake_logits, 0)) / 2
    opt_D.zero_grad()
    d_loss.backward()
    opt_D.step()

    # G's gradients flow through D, but D's weights get none. The DDP wrapper of torchrun would wait
    # for them forever.
    D = unwrap_ddp(D).requires_grad_(False)
    with autocast:
        judged = D(L, fake)
    g_gan = gan_loss(judged, 1)
    l1 = F.l1_loss(fake, ab)
    opt_G.zero_grad()
    (g_gan + l1_weight * l1).backward()
    opt_G.step()
    D.requires_grad_(True)

    return {
        "l1": l1.detach(),
        "d_loss": d_loss.detach(),
        "g_gan": g_gan.detach(),
        "d_real_accuracy": (real_logits > 0).float().mean(),
        "d_fake_accuracy": (fake_logits < 0).float().mean()
    }


def fit(run, photos, device, autocast, G, D, ema, opt_G, opt_D):
    """Train the epochs of both phases that are missing in the log; evaluate, log and save them."""
    config = run.config
    rank, world = processes()
    G = wrap_ddp(G)
    D = wrap_ddp(D)
    # phases[epoch]: epoch 0 is the gray baseline, which needs no training.
    phases = ["gray"] + ["pretrain"] * config.pretrain_epochs + ["gan"] * config.gan_epochs
    for epoch in range(len(run.rows), len(phases)):             # run.rows has those that are done
        phase = phases[epoch]
        label = f"{phase} {epoch}/{len(phases) - 1}"
        start = time.perf_counter()
        losses = []
        pictures = 0
        for step, rgb, rng in batches(photos, config, epoch, device, label):
            L, ab = encode(rgb)
            if config.old_film:
                L = film_L(rgb, rng)
            if phase == "pretrain":
                step_losses = pretrain_step(G, opt_G, L, ab, config.l1_weight, autocast)
            else:
                step_losses = gan_step(
                    G, D, opt_G, opt_D, L, ab, config.l1_weight, autocast
                )
            update_ema(ema, G, step)
            losses.append(step_losses)
            pictures += len(rgb) * world
        if rank > 0:                # rank 0 alone evaluates, saves and prints
            continue

        seconds = time.perf_counter() - start
        row = {"phase": phase, "epoch": epoch, "seconds": seconds}
        row["pictures_per_second"] = pictures / seconds
        row |= mean_losses(losses)
        with autocast:
            row |= evaluate(ema, photos, device)
            if config.old_film:
                row["ab_error_film"] = film_error(ema, photos, device)
        run.log(row, label)
        phase_ends = epoch in (config.pretrain_epochs, len(phases) - 1)
        if phase == "pretrain" and phase_ends:      # before checkpoint.pt, or a kill could lose it
            save_weights(config.out / "pretrained.pt", generator_file(ema, config))
        if phase_ends or run.is_due():
            save(run, photos, device, autocast, ema)


def save(run, photos, device, autocast, ema):
    shown = gather(photos.images, device, photos.val_indices[:8])
    with autocast:
        pictures = samples(ema, shown)
    run.save(pictures, generator_file(ema, run.config))


def train(config, saved):
    """Train the colorizer, or continue after the checkpoint `saved`."""
    device, memory_format, autocast = set_up(config)
    torch.manual_seed(config.seed % 2**63)              # accepts any integer
    with rank_0_first():                                # it downloads what is missing
        photos = load_split(config, device)
        G = initial_generator(config, saved)
    D = Discriminator()
    for net in (G, D):
        net.to(device, memory_format=memory_format)
    # A frozen encoder keeps its weights, but its BatchNorm still updates its statistics.
    G.encoder.requires_grad_(not config.freeze_encoder)
    # G itself fluctuates in the GAN phase. Its moving average is evaluated, sampled and saved.
    ema = copy.deepcopy(G).eval().requires_grad_(False)
    opt_G = Adam(G.parameters(), config.lr, betas=(0.5, 0.999), fused=True)
    opt_D = Adam(D.parameters(), config.lr, betas=(0.5, 0.999), fused=True)

    parts = {"G": G, "D": D, "ema": ema, "opt_G": opt_G, "opt_D": opt_D}
    run = Run(config, photos.fingerprint, "ab_error", evaluate(no_color, photos, device), parts)
    if saved:
        run.load(saved)
        if processes()[0] == 0:     # replaces files left by a kill, and notices a full disk early
            save(run, photos, device, autocast, ema)
    fit(run, photos, device, autocast, **parts)
    run.finish()


def run_task(argv):
    config, saved = parse_options(argv, __doc__.splitlines()[0], HYPERPARAMETERS)
    task = train_repairs if config.restore else train
    task(config, saved)
    return 0


def main(argv=None):
    return run_program(
        run_task, argv,
        if_interrupted="the same command with --resume continues after the last saved epoch",
        if_out_of_memory="try a smaller --batch-size, with --resume if the run has begun"
    )


if __name__ == "__main__":
    raise SystemExit(main())
