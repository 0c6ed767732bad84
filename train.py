"""Train the colorizer: some epochs of L1 alone, then a conditional GAN + 100 * L1 (pix2pix, Isola et al. 2017).

    python train.py --data demo --no-pretrained
"""
import copy
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.utils import save_image

from pix2pix import data, runtime
from pix2pix.color import ab_error, colorfulness, decode, encode, psnr
from pix2pix.damage import damage
from pix2pix.models import Discriminator, Generator, complete

REPORT = "l1 {l1:.4f}; held out: ab error {ab_error:.2f} (gray {gray:.2f}), PSNR {psnr:.2f} dB; {seconds:.0f} s"


def examples(rgb_u8: Tensor, restore: bool, seed) -> tuple[Tensor, Tensor, Tensor | None]:
    """uint8 sRGB (B, 3, H, W) -> the L that G sees, the target to make of it, and the weight of each number in L1.

    The target is ab (B, 2, H, W), and the weight None, for all the same. With `restore` L is damaged and the target is
    the undamaged (L, ab), (B, 3, H, W), in which what is lost counts 6 times (as holes do in Liu et al. 2018): being
    1 % of the pixels, it would hardly teach anything.
    """
    L, ab = encode(rgb_u8)
    if not restore:
        return L, ab, None
    damaged, lost = damage(L, seed)
    return damaged, torch.cat((L, ab), dim=1), (1 + 5 * lost).expand(-1, 3, -1, -1)


def descend(opt, tensor: Tensor, gradient: Tensor | None = None) -> None:
    """One step of `opt` on a loss, or on a tensor and the gradient that reaches it from its losses."""
    opt.zero_grad()
    tensor.backward(gradient)
    opt.step()


def pretrain_step(G, opt_G, L: Tensor, target: Tensor, weight: Tensor | None = None) -> dict[str, Tensor]:
    """G alone, on L1. L (B, 1, H, W), target and weight (B, 2 or 3, H, W) as `examples` gives them."""
    l1 = F.l1_loss(G(L), target, weight=weight)
    descend(opt_G, l1)
    return {"l1": l1.detach()}


def gan_step(G, D, opt_G, opt_D, L: Tensor, target: Tensor, l1_weight: float, weight=None) -> dict:
    """D learns to tell target from G(L), then G to deceive D, a step each (paper, section 3.3)."""
    fake = G(L)                                                                     # (B, 2 or 3, H, W)

    real_logits, fake_logits = D(L, target), D(L, fake.detach())                    # (B, 1, 15, 15) at 256x256
    # softplus(-logits) is binary cross-entropy with label 1, softplus(logits) with 0; halved, to slow D down (ibid.)
    d_loss = (F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()) / 2
    descend(opt_D, d_loss)

    # Gradients at G's output alone: none reach D, whose DistributedDataParallel would wait for them.
    g_gan, l1 = F.softplus(-getattr(D, "module", D)(L, fake)).mean(), F.l1_loss(fake, target, weight=weight)
    (from_gan,) = torch.autograd.grad(g_gan, fake)                                  # (B, 2 or 3, H, W)
    (from_l1,) = torch.autograd.grad(l1_weight * l1, fake)                          # apart, to log their ratio
    descend(opt_G, fake, from_gan + from_l1)
    return {"l1": l1.detach(), "d_loss": d_loss.detach(), "g_gan": g_gan.detach(),
            "d_real_accuracy": (real_logits > 0).float().mean(), "d_fake_accuracy": (fake_logits < 0).float().mean(),
            "gradient_ratio": from_gan.norm() / from_l1.norm()}


def update_average(average: nn.Module, G: nn.Module, step: int) -> None:
    """Move the exponential moving average of G, BatchNorm statistics included, towards G after its `step`-th step."""
    pair = [[tensor for tensor in net.state_dict().values() if tensor.is_floating_point()] for net in (average, G)]
    # A memory of 1,000 steps; short at first, or the random start would linger.
    torch.optim.swa_utils.get_ema_multi_avg_fn(min(0.999, step / (step + 9)))(*pair, None)


@torch.no_grad()
def evaluate(G, images: Tensor, indices: Tensor, batch_size: int, device: torch.device, restore=False) -> dict:
    """Held-out ab error (CIE units), PSNR (dB) and colorfulness of G's pictures, and the truth's: means over photos.

    With `restore`, on damage that is always the same, also the PSNR of L (dB): of damaged photos ("L_psnr"), of what is
    lost and of what is kept in them, and of undamaged photos.
    """
    scores = []
    for number, batch in enumerate(data.batches(images, indices, batch_size)):
        truth = batch.to(device)
        seen, target, weight = examples(truth, restore, ("held out", number))
        L, ab = complete(seen, G(seen))
        rgb = decode(L, ab)
        scores.append({"ab_error": ab_error(ab, target[:, -2:]), "psnr": psnr(rgb, truth),
                       "colorfulness": colorfulness(rgb), "colorfulness_truth": colorfulness(truth)})
        if restore:
            worn, lost = (seen != target[:, :1]).amax(dim=(1, 2, 3), keepdim=True), weight[:, :1] > 1
            parts = {"L_psnr": worn, "L_psnr_lost": lost, "L_psnr_kept": worn & ~lost, "L_psnr_undamaged": ~worn}
            scores[-1] |= {name: psnr(L * 255, target[:, :1] * 255, part) for name, part in parts.items()}
    return {name: torch.cat([score[name] for score in scores]).nanmean().item() for name in scores[0]}


def gray(L: Tensor) -> Tensor:
    """The baseline that any colorizer has to beat: no colour."""
    return torch.zeros_like(L).repeat(1, 2, 1, 1)


def parse_options(argv, saved: dict | None = None):
    """The options; what is not given is as in `saved`, the checkpoint of a run to resume, or else the default.

    A resumed run keeps its options; only epochs may grow, those of a phase that no other has followed.
    """
    parser = runtime.ArgumentParser(prog="train.py", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", required=True, type=lambda text: str(Path(text)), help="groups, coco, demo or a folder of photos")
    add("--out", type=Path, help="folder of the results (default: runs/<data name>)")
    add("--pretrain-epochs", type=int, default=20, help="epochs of G alone, on L1 (default: %(default)s)")
    add("--gan-epochs", type=int, default=100, help="epochs of GAN + L1 after them (default: %(default)s)")
    add("--batch-size", type=int, default=16, help="photos a step and process (default: %(default)s)")
    add("--size", type=int, default=256, help="side of the pictures in pixels, a multiple of 32 (default: %(default)s)")
    add("--lr", type=float, default=2e-4, help="learning rate of both Adams (default: %(default)s)")
    add("--l1-weight", type=float, default=100, help="weight of L1 against the GAN's loss (default: %(default)s)")
    add("--val", type=int, help="photos held out, at most a fifth (default: 50; of all groups, all but 4850)")
    add("--seed", type=int, default=0, help="of split, first weights and order of photos (default: %(default)s)")
    add("--limit", type=int, help="photos used in all, held-out ones included (default: every one)")
    add("--restore", action="store_true", help="repair photos, too: learn from damaged L, and put out L with ab")
    add("--no-pretrained", action="store_true", help="no ImageNet weights: start from noise")
    add("--compile", action="store_true", help="torch.compile G and D, which needs a C++ compiler: try whether it pays")
    add("--resume", action="store_true", help="go on from checkpoint.pt in --out, or begin where there is none")
    add("--device", default="auto", help="auto (cuda, under torchrun a GPU each, else cpu), cpu, cuda:1, mps ...")
    add("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="auto: bf16 where that is fast")
    config = saved["config"] if saved else {}
    parser.set_defaults(**config)
    args = parser.parse_args(argv)
    fixed = "pretrain_epochs" if saved and saved["rows"][-1]["phase"] == "gan" else None
    for name, value in sorted(config.items() - vars(args).items()):
        if name == fixed or not name.endswith("_epochs") or getattr(args, name) < value:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)} contradicts the run to resume: {value}")
    epochs = args.pretrain_epochs, args.gan_epochs
    numbers = args.size, args.batch_size, args.lr, args.l1_weight, args.limit, args.val, sum(epochs), min(epochs) + 1
    if args.size % 32 or not all(number is None or number > 0 for number in numbers) or not 0 <= args.seed < 2**63:
        parser.error("--size is a multiple of 32, --seed from 0 to 2^63, and epochs and all other numbers are above 0")
    return args


def samples(G, photos: Tensor, restore: bool) -> Tensor:
    """Photos uint8 (B, 3, S, S), each as G sees it, as G makes it, and in truth: uint8 (3 B, 3, S, S), CPU."""
    L, _, _ = examples(photos, restore, "samples")
    return torch.stack((decode(L, gray(L)), decode(*complete(L, G(L))), photos), dim=1).flatten(0, 1).cpu()


def save_epoch(out: Path, state: dict, tiles: Tensor) -> None:
    """Write what people look at and use, with `tiles` as of `samples`; last checkpoint.pt, which commits the epoch."""
    rows, config = state["rows"], state["config"] | {"epochs": state["rows"][-1]["epoch"]}
    with runtime.whole_file(out / "samples" / f"{rows[-1]['epoch']:03}_{rows[-1]['phase']}.png") as file:
        save_image(tiles / 255, file, format="png", nrow=6, padding=4, pad_value=1)
    runtime.write(out / "log.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    runtime.save(out / "generator.pt", {"kind": "generator", "config": config, "weights": state["average"]})
    runtime.save(out / "checkpoint.pt", state)


def train(argv) -> int:
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    args = parse_options(argv)
    device = runtime.pick_device(args.device)
    out = args.out or Path("runs", Path(args.data).resolve().name)
    saved = runtime.load_saved(out / "checkpoint.pt", "checkpoint") if (out / "checkpoint.pt").exists() else None
    runtime.require(args.resume or not saved, f"{out} holds a run: --resume goes on with it, or name another --out")
    args = parse_options(argv, saved)
    config = {name: value for name, value in vars(args).items() if name not in ("out", "resume", "device", "compile")}
    last = args.pretrain_epochs + args.gan_epochs

    prepared = data.load_photos(args.data, args.size, args.limit) if rank == 0 else None
    if world > 1:                                  # torchrun started this process and others: the first is waited for
        torch.distributed.init_process_group(device_id=device if device.type == "cuda" else None)
    images, skipped, identity = prepared or data.load_photos(args.data, args.size, args.limit)
    runtime.require(not saved or saved["identity"] == identity, f"{args.data} has changed since: begin another --out")
    # By default 50 are held out, but all after 4,850 of groups where that is as good as whole.
    val = args.val or (len(images) - 4850 if args.data == "groups" and len(images) >= 4900 else 50)
    train_indices, val_indices = data.split(len(images), val, args.seed)
    if rank == 0:
        runtime.write(out / "skipped.txt", "\n".join(map("\t".join, skipped)).encode(errors="backslashreplace"))
        print(f"{len(train_indices)} photos to train on, {val} held out, {len(skipped)} left out ({out}/skipped.txt)")

    torch.manual_seed(args.seed)
    # Two channels, ab, or three, (L, ab):
    G, D = Generator(not args.no_pretrained and not saved, 2 + args.restore), Discriminator(2 + args.restore)
    nn.ModuleList((G, D)).to(device, memory_format=torch.channels_last)
    average = copy.deepcopy(G).eval().requires_grad_(False)      # what is evaluated, shown and shipped
    opt_G, opt_D = (torch.optim.Adam(net.parameters(), args.lr, betas=(0.5, 0.999), fused=True) for net in (G, D))
    parts = {"G": G, "D": D, "average": average, "opt_G": opt_G, "opt_D": opt_D}
    for name, part in parts.items() if saved else ():
        part.load_state_dict(saved[name])
    for net in (G, D) if args.compile else ():
        net.compile()                              # the average, copied above, stays as it is: no step calls it
    # What the steps see: under torchrun, gradients are means over all processes. BatchNorm stays each one's own.
    shared = [nn.parallel.DistributedDataParallel(net) if world > 1 else net for net in (G, D)]
    shared[0].broadcast_buffers = shared[1].broadcast_buffers = False       # as an option, it warns in some versions
    held_out = images, val_indices, args.batch_size, device, args.restore
    bf16 = runtime.use_bf16(args.precision, device)
    # Without autocast's cache, which would hold weights from before a step.
    with torch.autocast(device.type, torch.bfloat16, bf16, cache_enabled=False), ThreadPoolExecutor(1) as writer:
        rows = saved["rows"] if saved else [{"phase": "gray", "epoch": 0} | evaluate(gray, *held_out)]
        shown = images[val_indices[:8]].to(device)
        if saved and rank == 0:
            written = writer.submit(save_epoch, out, saved, samples(average, shown, args.restore))
            written.result()                       # at once: should the disk be full, nothing is trained in vain

        steps = max(1, len(train_indices) // (args.batch_size * world))
        for epoch in range(len(rows), last + 1):
            phase = "pretrain" if epoch <= args.pretrain_epochs else "gan"
            start, totals = time.perf_counter(), {}
            loader = data.batches(images, train_indices, args.batch_size, (args.seed, epoch), rank, world)
            loader = runtime.progress(loader, steps, f"{phase} {epoch}/{last}", "photos", args.batch_size * world)
            for step, batch in enumerate(loader, 1):
                batch = batch.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else batch.to(device)
                L, target, weight = examples(batch, args.restore, (args.seed, epoch, rank, step))
                losses = (pretrain_step(shared[0], opt_G, L, target, weight) if phase == "pretrain" else
                          gan_step(*shared, opt_G, opt_D, L, target, args.l1_weight, weight))
                update_average(average, G, (epoch - 1) * steps + step)
                totals = {name: totals.get(name, 0) + loss for name, loss in losses.items()}
            means = (torch.stack(list(totals.values())) / steps).tolist()    # the epoch's one wait for the device
            if rank == 0:                              # the first process alone evaluates and writes
                row = {"phase": phase, "epoch": epoch, "seconds": time.perf_counter() - start}
                if epoch > 1:
                    written.result()                   # of the epoch before: raises what went wrong with it
                row |= {"pictures_per_second": steps * len(batch) * world / row["seconds"]} | dict(zip(totals, means))
                rows.append(row | evaluate(average, *held_out))
                # Neither infinity nor NaN is below:
                runtime.require(sum(means) + rows[-1]["ab_error"] < 1e9, f"epoch {epoch}: loss not finite, lower --lr")
                state = {"kind": "checkpoint", "config": config, "identity": identity, "rows": rows}
                state |= {name: part.state_dict() for name, part in parts.items()}
                # Beside the next epoch, and so from a copy:
                state = torch.utils._pytree.tree_map_only(Tensor, lambda tensor: tensor.to("cpu", copy=True), state)
                written = writer.submit(save_epoch, out, state, samples(average, shown, args.restore))
                print(f"{phase} {epoch}/{last}:", REPORT.format(**rows[-1], gray=rows[0]["ab_error"]), flush=True)
    if rank == 0:
        written.result()
        print(f"done: look at {out}/samples, and try python infer.py IN.jpg OUT.jpg --checkpoint {out}/generator.pt")
    return 0


def main(argv=None) -> int:
    return runtime.run(train, argv, "the same command with --resume goes on after the last whole epoch", "--batch-size")


if __name__ == "__main__":
    raise SystemExit(main())
