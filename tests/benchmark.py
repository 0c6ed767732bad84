"""How fast the machine is, and what share of that the program uses: python -m tests.benchmark [--json FILE]

Every figure is the median of several runs after a warm-up, all in one process, so that their ratios hold.
"""

import argparse
import contextlib
import copy
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

import infer
import train
from pix2pix import color, data, runtime
from pix2pix.models import Discriminator, Generator
from pix2pix.photo import read_photo, write_photo

ROOT = Path(__file__).parent.parent
BATCH, SIZE = 16, 256


def median_seconds(function, device, runs=5):
    """The median time of a call, after one that is not counted."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def flop(function):
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def peaks(device):
    """TFLOP/s of a large matrix product and of a 3x3 convolution, by precision."""
    found = {}
    side = 8192 if device.type == "cuda" else 2048
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = torch.rand(2, side, side, device=device, dtype=dtype)
        x = torch.rand(BATCH, 64, 128, 128, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        conv = torch.nn.Conv2d(64, 64, 3, padding=1, bias=False).to(device, dtype, memory_format=torch.channels_last)
        with torch.inference_mode():
            for what, function in (("matmul", lambda: a @ b), ("conv", lambda: conv(x))):
                found[f"{what} {name}"] = flop(function) / median_seconds(function, device) / 1e12
                print(f"peak {what:8}{name}   {found[f'{what} {name}']:9.3f} TFLOP/s")
    return found


def steps(device, bf16, layout):
    """What an epoch is made of, at 256x256 and batch 16: name -> (function, pictures)."""
    torch.manual_seed(0)
    G, D = Generator(pretrained=False), Discriminator()
    for net in (G, D):
        net.to(device, memory_format=layout)
    opt_G, opt_D = (torch.optim.Adam(net.parameters(), 2e-4, betas=(0.5, 0.999), fused=True) for net in (G, D))
    images = torch.randint(0, 256, (3 * BATCH, 3, SIZE, SIZE), dtype=torch.uint8)
    indices, average = torch.arange(len(images)), copy.deepcopy(G)
    L, ab = color.encode(images[:BATCH].to(device))
    found = {
        "batches": (lambda: list(data.batches(images, indices, BATCH, seed=0)), 3 * BATCH),
        "encode": (lambda: color.encode(images[:BATCH].to(device)), BATCH),
        "pretrain step": (lambda: train.pretrain_step(G, opt_G, L, ab), BATCH),
        "GAN step": (lambda: train.gan_step(G, D, opt_G, opt_D, L, ab, 100), BATCH),
        "average of G": (lambda: train.update_average(average, G, 1000), BATCH),
        "evaluate": (lambda: train.evaluate(G, images[:BATCH], indices[:BATCH], BATCH, device), BATCH),
    }
    precision = torch.autocast(device.type, torch.bfloat16, bf16, cache_enabled=False)
    return {name: (precision(function), pictures) for name, (function, pictures) in found.items()}


def training(device, bf16, peak):
    """Ours beside the same networks in float32 NCHW: as PyTorch comes, then with our setting of the allocator."""
    ours, plain = steps(device, bf16, torch.channels_last), steps(device, False, torch.contiguous_format)
    as_it_comes = {name: median_seconds(function, device) for name, (function, _) in plain.items()}
    runtime.keep_freed_memory()
    found = {}
    for name, (function, pictures) in ours.items():
        pairs = [
            (median_seconds(function, device, runs=1), median_seconds(plain[name][0], device, runs=1)) for _ in range(5)
        ]
        seconds, yardstick = (statistics.median(column) for column in zip(*pairs))
        row = {"ms": 1000 * seconds, "pictures_per_second": pictures / seconds}
        row |= {"share_of_peak": flop(function) / seconds / 1e12 / peak, "float32_nchw_ms": 1000 * as_it_comes[name]}
        row |= {"times_as_fast": as_it_comes[name] / seconds, "times_as_fast_with_our_allocator": yardstick / seconds}
        found[name] = row
        print(
            f"{name:14}{row['ms']:9.1f} ms{pictures / seconds:9.1f} pictures/s, {row['share_of_peak']:.1%} of peak; "
            f"float32 NCHW {row['float32_nchw_ms']:.1f} ms: {row['times_as_fast']:.2f} times as long, "
            f"{yardstick / seconds:.2f} with our allocator"
        )
    return found


def photo(width, height):
    """A photo with detail everywhere: smooth colours and grain."""
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (height // 40, width // 40, 3), dtype=np.uint8)).resize(
        (width, height)
    )
    grain = rng.integers(-20, 20, (height, width, 1), dtype=np.int16)
    return Image.fromarray((np.asarray(smooth) + grain).clip(0, 255).astype(np.uint8))


PEAK = """
import sys, infer
infer.main(sys.argv[1:])
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) // 1024)
"""


def inference(device):
    """Seconds of reading, colouring and writing a JPEG, beside Pillow's own decoding and encoding of the same file.

    And what infer.py needs at most for it: MiB in all, files that are mapped included; on Linux.
    """
    G, found = Generator(pretrained=False).to(device).eval(), {}
    config = {"data": "nothing", "size": SIZE, "epochs": 0}
    torch.save({"kind": "generator", "config": config, "weights": G.state_dict()}, "generator.pt")
    program = [sys.executable, "-c", PEAK, "in.jpg", "out.jpg", "--overwrite", "--checkpoint", "generator.pt"]
    for width, height in ((1224, 816), (4000, 3000), (8660, 5774)):
        photo(width, height).save("in.jpg", quality=92)
        image = read_photo("in.jpg")
        L, whole = torch.rand(1, 1, SIZE, SIZE, device=device), torch.inference_mode()(lambda: G(L))
        row = {
            "reading": median_seconds(lambda: read_photo("in.jpg"), device, runs=3),
            "network": median_seconds(whole, device, runs=3),
            "network and colour": median_seconds(lambda: infer.colorize(G, image, SIZE), device, runs=3),
            "writing": median_seconds(lambda: write_photo(image, Path("out.jpg"), image), device, runs=3),
            "pillow": median_seconds(
                lambda: Image.open("in.jpg").convert("RGB").save("p.jpg", quality=95, subsampling=0), device, runs=3
            ),
        }
        row["times pillow"] = (row["reading"] + row["network and colour"] + row["writing"]) / row["pillow"]
        paths = {**os.environ, "PYTHONPATH": str(ROOT)}
        run = subprocess.run(program, env=paths, capture_output=True, text=True, check=True)
        row["peak MiB of infer.py"] = int(run.stdout.splitlines()[-1])
        found[f"{width * height / 1e6:.0f} megapixels"] = row
        print(
            f"{width * height / 1e6:4.0f} megapixels  "
            + ", ".join(f"{name} {value:.2f}" for name, value in row.items())
        )
    return found


MEMORY = """
import sys, torch
from tests import benchmark
benchmark.BATCH, device = int(sys.argv[1]), torch.device(sys.argv[2])
benchmark.runtime.keep_freed_memory()
steps = benchmark.steps(device, benchmark.runtime.use_bf16("auto", device), torch.channels_last)
for name in ("pretrain step", "GAN step"):
    for _ in range(2):
        steps[name][0]()
    anonymous = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) // 1024
    print(anonymous, torch.cuda.max_memory_allocated() // 2**20 if device.type == "cuda" else 0)
"""


def memory(device):
    """MiB that a process of training holds, anonymous and on the GPU, by batch size; on Linux."""
    found = {}
    for batch in (8, 16, 32):
        command = [sys.executable, "-c", MEMORY, str(batch), str(device)]
        lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
        for phase, line in zip(("L1", "GAN"), lines, strict=True):
            anonymous, gpu = map(int, line.split())
            found[f"batch {batch} {phase}"] = {"anonymous MiB": anonymous, "GPU MiB": gpu}
            print(f"batch {batch:3} {phase:4}{anonymous:7} MiB anonymous, {gpu} MiB of GPU memory")
    return found


def preparation():
    """Photos a second of filling the cache, from 480-pixel JPEGs."""
    Path("photos").mkdir()
    for index in range(200):
        array = np.roll(np.asarray(photo(480, 360)), 7 * index, axis=1)
        Image.fromarray(array).save(f"photos/{index}.jpg", quality=90)
    start = time.perf_counter()
    images, _, _ = data.load_photos("photos", SIZE)
    found = len(images) / (time.perf_counter() - start)
    print(f"preparation {found:.0f} photos/s")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda ...")
    parser.add_argument("--only", choices=("training", "inference", "memory", "preparation"), help="one part of it")
    args = parser.parse_args()
    device, target = runtime.pick_device(args.device), args.json and args.json.resolve()
    bf16 = runtime.use_bf16("auto", device)
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    print(f"torch {torch.__version__} on {device}: {name}; auto precision is {'bf16' if bf16 else 'fp32'}")
    found = {"torch": torch.__version__, "device": name}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stack.callback(os.chdir, Path.cwd())
        os.chdir(folder)
        if args.only in (None, "training"):
            found["peaks"] = peaks(device)
            found["training"] = training(device, bf16, max(found["peaks"].values()))
        if args.only in (None, "inference"):
            found["inference"] = inference(device)
        if args.only in (None, "memory"):
            found["memory"] = memory(device)
        if args.only in (None, "preparation"):
            found["preparation"] = preparation()
    if target:
        target.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
