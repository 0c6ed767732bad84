"""What several test modules share: how to start the programs, what to watch, what to compare."""
import contextlib
import copy
import inspect
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.optim import Adam
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import infer
import train
from pix2pix import data, options, weights
from pix2pix.models import ENCODER, Discriminator, Generator
from pix2pix.repair import Repairer, fit_repairs
from pix2pix.run import Run

ROOT = Path(__file__).parent.parent
PROGRAMS = ROOT / "tests/programs"              # what tests run in new processes

CPU = torch.device("cpu")
MPS = torch.device("mps")
OLD_CARD = torch.device("cuda:0")               # for the fixture `cards`
NEW_CARD = torch.device("cuda:1")

# The smallest training of both phases, as options; without ImageNet weights, and with them.
TINY_PRETRAINED = "--size 32 --val 4 --batch-size 4 --precision fp32 --device cpu".split()
TINY = ["--no-pretrained", *TINY_PRETRAINED]

TIMINGS = {"seconds", "pictures_per_second"}    # what differs between two equal runs


# Starting the programs


def run(program, *arguments):
    """The exit code of train.py or infer.py in this process: `run(train, "--data", "demo")`."""
    return program.main([str(argument) for argument in arguments])


def run_train(photos, *options):
    """The same of a tiny training."""
    return run(train, "--data", photos, *TINY, *options)


def run_infer(generator, *arguments):
    """The same of coloring with a generator file."""
    return run(infer, *arguments, "--checkpoint", generator, "--device", "cpu")


def epochs(pretrain, gan):
    """The options for so many epochs of both phases."""
    return ["--pretrain-epochs", str(pretrain), "--gan-epochs", str(gan)]


def run_python(*arguments, cwd, **environment):
    """Run a new Python that finds the project, and wait for its end."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=300
    )


@contextlib.contextmanager
def threads(number):
    """PyTorch computes with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def parse(*arguments):
    """The configuration, and the checkpoint to resume, as train.py reads them."""
    return options.parse_options(list(map(str, arguments)), "", train.HYPERPARAMETERS)


def new_config(**values):
    """The configuration of a training, without a look at the disk."""
    others = {"data": "photos", "out": Path("out"), "encoder": ENCODER}
    return SimpleNamespace(**train.HYPERPARAMETERS | options.DEFAULTS | others | values)


def adam(net, lr):
    return Adam(net.parameters(), lr, betas=(0.5, 0.999), fused=True)


def new_parts(G=None, D=None, lr=2e-4):
    """What `train.fit` trains, before its first step: full-size networks unless others are given.

    As attributes; `vars` of it are a run's parts.
    """
    torch.manual_seed(0)
    G = Generator(pretrained=False) if G is None else G
    D = Discriminator() if D is None else D
    ema = copy.deepcopy(G).eval().requires_grad_(False)
    return SimpleNamespace(G=G, D=D, ema=ema, opt_G=adam(G, lr), opt_D=adam(D, lr))


def fill(net):
    """The network with numbers in it that are unlike those of a new one."""
    generator = torch.Generator().manual_seed(5)
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(0.1 + 0.1 * torch.rand(tensor.shape, generator=generator))
        else:
            tensor.fill_(7)
    return net


def new_repair_parts():
    """The same of `repair.fit_repairs`."""
    torch.manual_seed(0)
    R = Repairer(Generator(pretrained=False)).train()
    ema = copy.deepcopy(R).eval().requires_grad_(False)
    return SimpleNamespace(R=R, ema=ema, opt=adam(R, 2e-4))


def new_run(parts=None, error="ab_error", **values):
    """A run whose baseline is an error of 10."""
    baseline = {error: 10.0, "psnr": 20.0}
    return Run(new_config(**values), "photos", error, baseline, vars(parts) if parts else {})


def fit_as_rank_1(parts, images, phase, **values):
    """One epoch of a phase in the second of two processes, which evaluates and saves nothing.

    The phases are "pretrain" and "gan", and "repair", which takes other parts.
    """
    values |= {"pretrain_epochs": int(phase != "gan"), "gan_epochs": int(phase == "gan")}
    run = new_run(parts, batch_size=2, **values)
    photos = held_out(images)
    fit = fit_repairs if phase == "repair" else train.fit
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANK", "1")
        patch.setenv("WORLD_SIZE", "2")
        fit(run, photos, images.device, contextlib.nullcontext(), **vars(parts))


# Watching and replacing functions


def no_training(patch):
    """Runs of train.py end before their first epoch."""
    stub(patch, train, "fit")


def watch(patch, owner, name, before=None, instead=None):
    """The list of the arguments, by name, of all calls of a function, which works as it did.

    `before` is called ahead of each call with its number, from 1. `instead` replaces the function.
    """
    function = getattr(owner, name)
    signature = inspect.signature(function)
    numbers = itertools.count(1)
    calls = []

    def watched(*args, **options):
        calls.append(signature.bind(*args, **options).arguments)
        if before:
            before(next(numbers))
        return (instead or function)(*args, **options)

    patch.setattr(owner, name, watched)
    return calls


def stub(patch, owner, name, result=None):
    """The same of a function that now does nothing but return `result`."""
    return watch(patch, owner, name, instead=lambda *args, **options: result)


def raising(error):
    """A function that raises this, whatever it is called with."""
    def fail(*args, **options):
        raise error

    return fail


def out_of_memory(*args, **options):
    """Raises what PyTorch raises on a GPU that is full."""
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


def at_call(number, act):
    """For `watch`: what acts before this one call."""
    def before(count):
        if count == number:
            act()

    return before


def press_ctrl_c():
    signal.signal(signal.SIGINT, signal.default_int_handler)        # a background job ignores it
    signal.raise_signal(signal.SIGINT)


def interrupt_at_step(patch, number):
    """Ctrl-C before a step of training, whatever the phase: each gathers its photos first."""
    watch(patch, data, "gather", before=at_call(number, press_ctrl_c))


class Clock:
    """Stands in for the module `time`: time passes in `sleep`, and by `tick` at each look."""

    def __init__(self, tick=0):
        self.now = 0
        self.tick = tick
        self.slept = []

    def monotonic(self):
        self.now += self.tick
        return self.now

    perf_counter = monotonic

    def sleep(self, seconds):
        self.now += seconds
        self.slept.append(seconds)


class Waits(TorchDispatchMode):
    """Notes the operations for which Python waits for a GPU, and counts all of them.

    Such operations make a number, or a shape, that the program needs to go on; or they move a
    tensor between the memories.
    """

    def __init__(self):
        super().__init__()
        self.seen = []
        self.operations = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.operations.add(str(operation))
        before = _places(args, kwargs)
        if _result_is_needed(operation, args):      # on "meta", what follows raises
            self.seen.append(str(operation))
        result = operation(*args, **(kwargs or {}))
        if len(before | _places(result)) > 1:
            self.seen.append(str(operation))
        return result


def _result_is_needed(operation, args):
    """Whether the shape of the result, or what the program does next, depends on values."""
    if operation in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default):
        return any(index is not None and index.dtype == torch.bool for index in args[1])
    tags = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
    return not tags.isdisjoint(operation.tags)


def _places(*values):
    """Where tensors are, except single numbers: those travel with an operation."""
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]
    return {tensor.device.type for tensor in tensors if tensor.dim() > 0}


# Pictures


def noise(width, height, channels=3, seed=0, top=256, dtype=np.uint8):
    """Smooth random pixels: (height, width, channels), or (height, width) for one channel."""
    rng = np.random.default_rng(seed)
    shape = (max(1, height // 8), max(1, width // 8), channels)
    coarse = rng.integers(0, 256, shape, dtype=np.uint8)
    layers = []
    for channel in range(channels):
        layer = Image.fromarray(coarse[..., channel])
        layers.append(np.asarray(layer.resize((width, height), Image.Resampling.BILINEAR)))
    pixels = np.stack(layers, axis=-1).astype(np.float64) / 255 * (top - 1)
    return (pixels if channels > 1 else pixels[..., 0]).astype(dtype)


def save_noise(path, width=40, height=30, **kind):
    """Write a picture of noise in the format of the path's extension, and the folders around it."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(width, height, **kind)).save(path)


def noise_batch(count, size):
    """Pictures of noise as the networks' photos, uint8 (count, 3, size, size)."""
    photos = np.stack([noise(size, size, seed=seed) for seed in range(count)])
    return torch.from_numpy(photos).permute(0, 3, 1, 2)


def held_out(images, first=0):
    """These pictures as the Photos of a training, all validated on but those before `first`."""
    val_indices = torch.arange(first, len(images), device=images.device)
    return data.Photos(images, torch.arange(len(images)), val_indices, "photos")


# What a program printed and left behind


def error_lines(printed):
    """The messages of what was printed on stderr, which has to be lines of "error: <message>"."""
    assert printed.endswith("\n"), printed
    lines = printed.removesuffix("\n").split("\n")
    assert all(line.startswith("error: ") for line in lines), printed
    return [line.removeprefix("error: ") for line in lines]


def error_line(printed):
    """The same of what has to be one line."""
    messages = error_lines(printed)
    assert len(messages) == 1, printed
    return messages[0]


def read_log(out):
    return [json.loads(line) for line in (Path(out) / "log.jsonl").read_text().splitlines()]


def checkpoint(out="out"):
    return weights.load_saved(Path(out, "checkpoint.pt"), "checkpoint")


def without_timings(rows):
    return [{name: row[name] for name in row.keys() - TIMINGS} for row in rows]


def assert_equal(saved, other, path=""):
    """Two saved files are equal bit for bit, except for timings."""
    assert type(saved) is type(other), path
    if isinstance(saved, torch.Tensor):
        assert torch.equal(saved, other), path
    elif isinstance(saved, dict):
        assert saved.keys() - TIMINGS == other.keys() - TIMINGS, path
        for name in saved.keys() - TIMINGS:
            assert_equal(saved[name], other[name], f"{path}/{name}")
    elif isinstance(saved, (list, tuple)):
        assert len(saved) == len(other), path
        for index, pair in enumerate(zip(saved, other)):
            assert_equal(*pair, f"{path}/{index}")
    else:
        assert saved == other, path


def assert_same_weights(weights, other):
    """Once rounded to float16, as in a file."""
    assert weights.keys() == other.keys()
    for name, weight in weights.items():
        assert torch.equal(weight.half(), other[name].half()), name


def assert_same_run(out, whole):
    """The results in `out` are those in `whole`: all files, but only the samples of `whole`."""
    out, whole = Path(out), Path(whole)
    assert_equal(checkpoint(out), checkpoint(whole))
    for name in ("generator.pt", "pretrained.pt"):
        assert (out / name).exists() == (whole / name).exists(), name
        if (whole / name).exists():
            pair = (weights.load_saved(folder / name, "generator") for folder in (out, whole))
            assert_equal(*pair, name)
    assert without_timings(read_log(out)) == without_timings(read_log(whole))
    samples = [path.relative_to(whole) for path in whole.glob("samples/*.png")]
    assert samples, "there is at least one to compare"
    for sample in samples:
        assert (out / sample).read_bytes() == (whole / sample).read_bytes(), sample
