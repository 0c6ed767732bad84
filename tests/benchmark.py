"""How fast the machine is, and what share of that the program uses: python -m tests.benchmark

Every figure is the median of several calls after one that is not counted, all in one process, so
that their ratios hold.
"""
import argparse
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
from torch.optim import Adam
from torch.utils.flop_counter import FlopCounterMode

import infer
import train
from pix2pix import color, data
from pix2pix.device import fast_layout, keep_freed_memory, pick_device, use_bf16
from pix2pix.metrics import evaluate
from pix2pix.models import ENCODER, Discriminator, Generator, update_ema
from pix2pix.photo import JPEG, read_photo, write_photo
from pix2pix.weights import save_weights

ROOT = Path(__file__).parent.parent
SIZE = 256


def median_seconds(function, device, calls=5):
    times = []
    for _ in range(1 + calls):
        start = time.perf_counter()
        function()
        getattr(torch, device.type).synchronize()       # torch.cuda.synchronize, torch.mps's ...
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def flop(function):
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


@torch.inference_mode()
def peak(device, bf16):
    """FLOP/s of a large matrix product or of a 3x3 convolution, which is faster."""
    kind = {"device": device, "dtype": torch.bfloat16 if bf16 else torch.float32}
    side = 2048 if device.type == "cpu" else 8192
    a, b = torch.rand(2, side, side, **kind)
    x = torch.rand(16, 64, 128, 128, **kind).to(memory_format=fast_layout(device, bf16))
    conv = torch.nn.Conv2d(64, 64, 3, padding=1, bias=False, **kind)
    found = [flop(function) / median_seconds(function, device)
             for function in (lambda: a @ b, lambda: conv(x))]
    print("peak: matrices {:.3f}, convolution {:.3f} TFLOP/s".format(*(x / 1e12 for x in found)))
    return max(found)


def steps(device, bf16, layout, batch_size):
    """What an epoch is made of: name -> (function, pictures)."""
    torch.manual_seed(0)
    G, D = (net.to(device, memory_format=layout) for net in (Generator(False), Discriminator()))
    ema = copy.deepcopy(G).eval().requires_grad_(False)
    opt_G, opt_D = (Adam(net.parameters(), 2e-4, betas=(0.5, 0.999), fused=True) for net in (G, D))
    images = torch.randint(0, 256, (3 * batch_size, 3, SIZE, SIZE), dtype=torch.uint8)
    indices = torch.arange(len(images))
    photos = images[:batch_size].to(device)
    L, ab = color.encode(photos)

    def load_epoch():
        order, mirrored = data.shuffle(indices, batch_size, 0)
        for batch in zip(order, mirrored.to(device)):
            data.gather(images, device, *batch)

    validation = data.Photos(images, indices, indices[:batch_size], "noise")
    precision = torch.autocast(device.type, torch.bfloat16, bf16, cache_enabled=False)

    def evaluate_batch():
        with precision:
            evaluate(ema, validation, device)

    batch = (L, ab, 100, precision)
    return {
        "batches": (load_epoch, 3 * batch_size),
        "encode": (lambda: color.encode(photos), batch_size),
        "pretrain step": (lambda: train.pretrain_step(G, opt_G, *batch), batch_size),
        "GAN step": (lambda: train.gan_step(G, D, opt_G, opt_D, *batch), batch_size),
        "EMA of G": (lambda: update_ema(ema, G, 1000), batch_size),
        "evaluate": (evaluate_batch, batch_size)
    }


def training(device, bf16, batch_size):
    """As train.py does it, beside float32 in PyTorch's layout, first with its own allocator."""
    most = peak(device, bf16)
    ours = steps(device, bf16, fast_layout(device, bf16), batch_size)
    plain = steps(device, False, torch.contiguous_format, batch_size)
    as_it_comes = {name: median_seconds(function, device) for name, (function, _) in plain.items()}
    keep_freed_memory()
    found = {}
    for name, (function, pictures) in ours.items():
        seconds = median_seconds(function, device)
        found[name] = {
            "ms": 1000 * seconds,
            "pictures a second": pictures / seconds,
            "share of peak": flop(function) / seconds / most,
            "times as long as it comes": as_it_comes[name] / seconds,
            "with our allocator": median_seconds(plain[name][0], device) / seconds
        }
        show(name, found[name])
    return found


def show(name, figures):
    print(f"{name:15}" + ", ".join(f"{what} {value:.4g}" for what, value in figures.items()))


def photo(width, height):
    """A photo with detail everywhere: smooth colors and grain."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 40, width // 40, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height))
    grain = rng.integers(-20, 20, (height, width, 1), dtype=np.int16)
    return Image.fromarray((np.asarray(smooth) + grain).clip(0, 255).astype(np.uint8))


def peak_memory(code, *args):
    """What a new Python that runs the code holds at most, mapped files included; on Linux."""
    command = [sys.executable, "-c", code + PEAK_MEMORY, *map(str, args)]
    paths = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, env=paths, stdout=subprocess.PIPE, text=True, check=True)
    return dict(zip(("MiB", "MiB of the GPU"), map(int, run.stdout.split()[-2:])))


PEAK_MEMORY = """
import re, torch
peak = int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
used = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
print(peak // 2**10, used // 2**20)
"""
INFER = """
import sys, infer
infer.main(sys.argv[1:])
"""
TRAIN = """
import sys, torch
from tests.benchmark import fast_layout, keep_freed_memory, steps
device, bf16, batch_size = torch.device(sys.argv[1]), sys.argv[2] == "True", int(sys.argv[3])
keep_freed_memory()
function, _ = steps(device, bf16, fast_layout(device, bf16), batch_size)["GAN step"]
function(), function()
"""


def inference(device):
    """Seconds for a JPEG, beside Pillow's own decoding and encoding of the same file; memory."""
    config = {"data": "nothing", "size": SIZE, "encoder": ENCODER}
    weights = Generator(pretrained=False).state_dict()
    path = Path("generator.pt")
    save_weights(path, {"kind": "generator", "config": config, "weights": weights})
    G = infer.load_generator(path, device)
    L = torch.rand(1, 1, SIZE, SIZE, device=device)
    options = ["in.jpg", "out.jpg", "--overwrite", "--checkpoint", path, "--device", device]
    found = {}
    for width, height in ((1224, 816), (4000, 3000), (8660, 5774)):
        name = f"{width * height / 1e6:.0f} megapixels"
        photo(width, height).save("in.jpg", quality=92)
        image = read_photo("in.jpg")
        functions = {
            "reading": lambda: read_photo("in.jpg"),
            "network": torch.inference_mode()(lambda: G(L)),
            "network and color": lambda: infer.colorize(G, image, SIZE),
            "writing": lambda: write_photo(image, Path("out.jpg"), image),
            "pillow": lambda: Image.open("in.jpg").save("out.jpg", **JPEG)
        }
        row = {name: median_seconds(each, device, 3) for name, each in functions.items()}
        ours = row["reading"] + row["network and color"] + row["writing"]
        row["times pillow"] = ours / row["pillow"]
        found[name] = row | peak_memory(INFER, *options)
        show(name, found[name])
    return found


def memory(device, bf16):
    """Of a process that trains, GAN phase, by batch size."""
    found = {size: peak_memory(TRAIN, device, bf16, size) for size in (8, 16, 32)}
    for batch_size, row in found.items():
        show(f"batch {batch_size}", row)
    return found


def preparation():
    """Photos a second of filling the cache, from 480-pixel JPEGs."""
    Path("photos").mkdir()
    pixels = np.asarray(photo(480, 360))
    for index in range(200):
        shifted = Image.fromarray(np.roll(pixels, 7 * index, axis=1))
        shifted.save(f"photos/{index}.jpg", quality=90)
    start = time.perf_counter()
    images, _, _, _ = data.load_photos("photos", SIZE)
    found = len(images) / (time.perf_counter() - start)
    print(f"preparation {found:.0f} photos/s")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = ("training", "inference", "memory", "preparation")
    parser.add_argument("--only", choices=parts, help="one part of it")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps ...")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--batch-size", type=int, default=16, help="of training (16)")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    args = parser.parse_args()
    device = pick_device(args.device)
    bf16 = use_bf16(args.precision, device)
    name = f"{platform.machine()}, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    found = {"torch": torch.__version__, "device": f"{device}, {name}", "bf16": bf16}
    print(found)
    measure = {
        "training": lambda: training(device, bf16, args.batch_size),
        "inference": lambda: inference(device),
        "memory": lambda: memory(device, bf16),
        "preparation": preparation
    }
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for part in [args.only] if args.only else parts:
            found[part] = measure[part]()
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
