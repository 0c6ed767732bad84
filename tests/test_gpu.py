"""What is so on GPUs, and between processes, seen on a machine without a GPU."""
import contextlib
import copy
import datetime
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import infer
import train
from pix2pix import damage, data
from pix2pix.device import (
    fast_layout, first_process_first, join_processes, keep_near, pick_device, seeded, use_bf16
)
from pix2pix.models import Discriminator, Generator
from pix2pix.run import PARTS, Run
from pix2pix.terminal import UsageError, run_program
from tests.conftest import ROOT, TINY, noise

CPU = torch.device("cpu")
MPS = torch.device("mps")
OLD_CARD = torch.device("cuda:0")
NEW_CARD = torch.device("cuda:1")
NO_KERNEL = "CUDA error: no kernel image is available for execution on the device"
LAYOUTS = (torch.contiguous_format, torch.channels_last)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Pictures this small are soon done; on a busy machine two threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cards(monkeypatch):
    """Two cards that are not there, an RTX 2080 and an A100; the first is the current one."""
    capabilities = [(7, 5), (8, 0)]

    def capability(device=None):
        return capabilities[torch.device("cuda:0" if device is None else device).index]

    monkeypatch.setattr(torch.cuda, "get_device_capability", capability)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.fixture
def chosen(cards, monkeypatch):
    """The calls of `set_device`; tensors of ones are there, wherever they are asked for."""
    calls = []
    monkeypatch.setattr(torch.cuda, "set_device", calls.append)
    monkeypatch.setattr(torch, "ones", lambda *shape, device: torch.zeros(shape))
    return calls


@pytest.mark.parametrize(
    "device, bf16, layout",
    [
        (NEW_CARD, True, torch.channels_last),
        (NEW_CARD, False, torch.channels_last),
        (OLD_CARD, True, torch.contiguous_format),
        (OLD_CARD, False, torch.contiguous_format),
        (MPS, True, torch.contiguous_format),
        (MPS, False, torch.contiguous_format),
        (CPU, True, torch.channels_last),
        (CPU, False, torch.contiguous_format)
    ]
)
def test_channels_last_is_for_new_cards_and_for_bfloat16_on_cpus(cards, device, bf16, layout):
    assert fast_layout(device, bf16) == layout


def test_automatic_precision_asks_the_chosen_card_not_the_current_one(cards):
    assert use_bf16("auto", NEW_CARD) and not use_bf16("auto", OLD_CARD)


def test_a_generator_is_laid_out_contiguously_on_a_cpu(generator):
    """Though an A100 may have saved it channels_last."""
    G = infer.load_generator(generator, CPU)
    assert all(weight.is_contiguous() for weight in G.parameters())


def test_a_generator_is_laid_out_by_the_same_rule_as_in_training(generator, monkeypatch):
    assert infer.fast_layout is train.fast_layout is fast_layout
    asked = []

    def rule(device, bf16):
        asked.append((device, bf16))
        return torch.channels_last

    monkeypatch.setattr(infer, "fast_layout", rule)
    G = infer.load_generator(generator, CPU)
    kernels = [weight for weight in G.parameters() if weight.dim() == 4]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    assert asked == [(CPU, False)]


@pytest.fixture
def meetings(monkeypatch):
    """What the process group is asked for, as process 3 of 4."""
    calls = []
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")

    def meet(backend, device_id=None, timeout=None):
        calls.append((backend, device_id, timeout))

    monkeypatch.setattr(torch.distributed, "init_process_group", meet)
    return calls


@pytest.mark.parametrize(
    "device, backend, card", [(CPU, "gloo", None), (NEW_CARD, "nccl", NEW_CARD)]
)
def test_processes_meet_by_gloo_on_cpus_and_by_nccl_on_the_card_of_each(
    meetings, device, backend, card
):
    assert join_processes(device) == (3, 4)
    assert [call[:2] for call in meetings] == [(backend, card)]


@pytest.mark.parametrize("device", [CPU, NEW_CARD])
def test_processes_wait_for_hours_while_the_first_prepares_the_photos(meetings, device):
    join_processes(device)
    assert meetings[0][2] >= datetime.timedelta(hours=2)


@pytest.mark.parametrize(
    "rank, world, events",
    [(0, 2, ["prepared", "met"]), (1, 2, ["met", "prepared"]), (0, 1, ["prepared"])]
)
def test_the_others_prepare_nothing_before_the_first_has(monkeypatch, rank, world, events):
    seen = []
    monkeypatch.setattr(torch.distributed, "barrier", lambda: seen.append("met"))
    with first_process_first(rank, world):
        seen.append("prepared")
    assert seen == events


def test_a_process_alone_meets_nobody(meetings, monkeypatch):
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    assert join_processes(CPU) == (0, 1) and meetings == []


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_every_process_of_torchrun_gets_a_card_of_its_own(chosen, monkeypatch, name):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device(name) == torch.device("cuda:1")
    assert [torch.device(call) for call in chosen] == [torch.device("cuda:1")]


@pytest.mark.parametrize("name, card", [("auto", 0), ("cuda", 0), ("cuda:1", 1)])
def test_without_torchrun_it_is_the_first_card_or_the_one_that_is_named(
    chosen, monkeypatch, name, card
):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert pick_device(name) == torch.device("cuda", card)
    assert [torch.device(call).index for call in chosen] == [card]


def test_a_card_that_is_named_is_taken_under_torchrun_too(chosen, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device("cuda:0") == torch.device("cuda:0")


@pytest.fixture
def broken_card(chosen, monkeypatch):
    """It has memory, but PyTorch has no kernels for it."""
    class Ones:
        def add(self, number):
            raise torch.AcceleratorError(f"{NO_KERNEL}\nCUDA kernel errors might be reported late")

    monkeypatch.setattr(torch, "ones", lambda *shape, device: Ones())


def test_a_card_without_kernels_is_found_before_it_is_chosen(broken_card, chosen):
    with pytest.raises(UsageError, match="no kernel image"):
        pick_device("cuda:1")
    assert chosen == []


def test_a_card_without_kernels_is_one_clear_line_and_changes_nothing(broken_card, work, capsys):
    assert train.main(["--data", "demo", "--no-pretrained", "--device", "cuda:1"]) == 2
    printed = capsys.readouterr()
    assert printed.err == f"error: --device cuda:1 cannot be used here: {NO_KERNEL}\n"
    assert printed.out == "" and list(work.iterdir()) == []


@pytest.fixture
def free_memory(monkeypatch):
    """How many bytes are free on the new card: its only entry, for the test to set."""
    free = {}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[device], 80 * 2**30))
    return free


@pytest.fixture
def images(monkeypatch):
    """They can move to any device; what comes there is its name."""
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device: f"on {device}")
    return torch.empty(100, 3, 32, 32, dtype=torch.uint8)


def test_a_set_moves_to_the_card_if_a_quarter_of_what_is_free_holds_it(free_memory, images):
    free_memory[NEW_CARD] = 4 * images.nbytes + 4
    assert keep_near(images, NEW_CARD) == "on cuda:1"


def test_a_larger_set_stays_on_the_disk(free_memory, images):
    free_memory[NEW_CARD] = 4 * images.nbytes - 4
    assert keep_near(images, NEW_CARD) is images


@pytest.mark.parametrize("device", [CPU, MPS])
def test_without_a_card_a_set_stays_on_the_disk(free_memory, images, device):
    assert keep_near(images, device) is images


@pytest.mark.parametrize("seed", [5, (0, 1)])
def test_batches_are_the_photos_by_their_numbers_and_mirrored_where_the_seed_says_so(seed):
    images = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8)
    indices = torch.arange(1, 40, 2)
    generator = seeded(seed)
    order = indices[torch.randperm(20, generator=generator)]
    expected = images[order]
    mirrored = torch.rand(18, generator=generator) < 0.5
    expected[:18][mirrored] = expected[:18][mirrored].flip(-1)
    found = list(data.batches(images, indices, 6, seed))
    assert torch.equal(torch.cat(found), expected[:18]) and 0 < mirrored.sum() < 18


class Waits(TorchDispatchMode):
    """The operations for which Python waits for a GPU.

    They make a number, or a shape, that the program goes on from; or something moves between the
    memories.
    """

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default):
            masks = [index for index in args[1] if index is not None and index.dtype == torch.bool]
            waits = len(masks) > 0
        else:
            tags = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
            waits = not tags.isdisjoint(operation.tags)
        before = _places(args, kwargs)
        if waits:                               # on "meta" what follows raises
            self.seen.append(str(operation))
        result = operation(*args, **(kwargs or {}))
        if len(before | _places(result)) > 1:
            self.seen.append(str(operation))
        return result


def _places(*values):
    """Where tensors are, but for single numbers: those go with an operation."""
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]
    return {tensor.device.type for tensor in tensors if tensor.dim() > 0}


def new_run(repairs):
    torch.manual_seed(0)
    G = Generator(pretrained=False, repairs=repairs)
    D = Discriminator(target_channels=3 if repairs else 2)
    return Run(G, D, {"lr": 2e-4, "l1_weight": 100, "seed": 0}, "photos", Path("out"))


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x[0].item(),
        lambda x: float(x[0]),
        lambda x: bool(x.amax() > 1),
        lambda x: "yes" if x.isnan().any() else "no",
        lambda x: torch.equal(x, x),
        lambda x: x.nonzero(),
        lambda x: x[x > 0.5],
        lambda x: x.index_put_((x > 0.5,), x[:1]),
        lambda x: x.masked_select(x > 0.5),
        lambda x: x.to("meta")
    ]
)
def test_the_count_of_waits_sees_one(read):
    x = torch.rand(3)
    with Waits() as waits:
        read(x)
    assert len(waits.seen) == 1


@pytest.mark.parametrize("seed", [None, (0, 1)])
def test_batches_are_where_the_set_is_and_wait_for_the_device_only_before_the_first(seed):
    """On "meta", which keeps no values: to read one there raises."""
    images = torch.empty(20, 3, 8, 8, dtype=torch.uint8, device="meta")
    with Waits() as waits:
        found = list(data.batches(images, torch.arange(2, 18), 4, seed))
    assert [(batch.device.type, batch.shape) for batch in found] == [("meta", (4, 3, 8, 8))] * 4
    assert waits.seen == ["aten._to_copy.default"] * 2, "which photos, and which are mirrored"


PHASES = [("pretrain", False), ("pretrain", True), ("gan", False), ("gan", True)]


@pytest.mark.parametrize("phase, repairs", PHASES)
def test_no_step_waits_for_the_device_and_an_epoch_waits_once(monkeypatch, phase, repairs):
    """On "meta", which cannot be waited for, with all of a step but Adam."""
    with torch.device("meta"):
        run = new_run(repairs)
        photos = torch.empty(2, 3, 32, 32, dtype=torch.uint8)
    for optimizer in (run.opt_G, run.opt_D):
        monkeypatch.setattr(optimizer, "step", lambda: None)
    monkeypatch.setattr(damage, "seeded", lambda seed, device: seeded(seed))
    reads = []

    def tolist(tensor):
        reads.append(tensor)
        return [0.0] * len(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", tolist)
    with Waits() as waits:
        train.train_epoch(run, run.G, run.D, [photos, photos], phase, 1, 2, 0)
    assert waits.seen == [] and len(reads) == 1


@pytest.mark.parametrize("phase, repairs", [("pretrain", False), ("gan", True)])
def test_no_operation_of_a_step_nor_of_adam_nor_of_the_average_is_a_wait(phase, repairs):
    run = new_run(repairs)
    photos = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    train.train_epoch(run, run.G, run.D, [photos], phase, 1, 1, 0)          # Adam makes its state
    with Waits() as waits:
        train.train_epoch(run, run.G, run.D, [photos], phase, 2, 1, 0)
    assert waits.seen == []


def test_the_average_moves_without_going_through_the_networks_names(monkeypatch):
    run = small_run(torch.contiguous_format)
    nn.init.zeros_(run.G.weight)
    for name in ("state_dict", "named_parameters", "parameters", "buffers"):
        monkeypatch.setattr(nn.Module, name, lambda net: pytest.fail("the lists are made once"))
    before = run.average.weight.clone()
    run.update_average(1)
    assert torch.allclose(run.average.weight, 0.1 * before) and before.abs().sum() > 0


@pytest.fixture
def turn():
    """A run, with a small G, and what `gan_step` takes of a batch."""
    torch.manual_seed(0)
    run = Run(nn.Conv2d(1, 2, 1), Discriminator(), {"lr": 2e-4}, "photos", Path("out"))
    return run, (torch.rand(2, 1, 32, 32), torch.rand(2, 2, 32, 32), 100)


def test_in_Gs_turn_Ds_weights_get_no_gradient(turn, monkeypatch):
    """They still have that of D's own turn."""
    run, batch = turn
    own = []

    def gradients():
        return [weight.grad.clone() for weight in run.D.parameters()]

    monkeypatch.setattr(run.opt_D, "step", lambda: own.extend(gradients()))
    train.gan_step(run.G, run.D, run.opt_G, run.opt_D, *batch)
    assert all(map(torch.equal, gradients(), own)) and len(own) > 0


def test_after_Gs_turn_Ds_weights_get_gradients_again(turn):
    run, batch = turn
    train.gan_step(run.G, run.D, run.opt_G, run.opt_D, *batch)
    assert all(weight.requires_grad for weight in run.D.parameters())


class Shared(nn.Module):
    """As DistributedDataParallel."""

    def __init__(self, net):
        super().__init__()
        self.module = net
        self.calls = 0

    def forward(self, *inputs):
        self.calls += 1
        return self.module(*inputs)


def test_in_Gs_turn_the_inner_network_judges_without_the_other_processes(turn):
    run, batch = turn
    shared = Shared(run.D)
    judged = []
    run.D.register_forward_hook(lambda *call: judged.append(shared.calls))
    train.gan_step(run.G, shared, run.opt_G, run.opt_D, *batch)
    assert judged == [1, 2, 2], "real and fake through all processes, then what G made, alone"


def small_run(layout):
    torch.manual_seed(0)
    nets = [nn.Conv2d(2, 3, 3).to(memory_format=layout) for _ in ("G", "D")]
    return Run(*nets, {"lr": 0.1}, "photos", Path("out"))


def small_step(run):
    x = torch.arange(256.0).sin().view(2, 2, 8, 8)
    for net, optimizer in ((run.G, run.opt_G), (run.D, run.opt_D)):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()


def next_step(saved_in, resumed_in, load):
    """Whether G and D are, after one more step, where the run that was never saved is."""
    unchanged = small_run(saved_in)
    small_step(unchanged)
    saved = {name: copy.deepcopy(getattr(unchanged, name).state_dict()) for name in PARTS}
    resumed = small_run(resumed_in)
    load(resumed, saved | {"rows": []})
    small_step(unchanged)
    small_step(resumed)
    return [
        torch.allclose(getattr(resumed, name).weight, getattr(unchanged, name).weight, atol=1e-5)
        for name in ("G", "D")
    ]


@pytest.mark.parametrize("saved_in", LAYOUTS)
@pytest.mark.parametrize("resumed_in", LAYOUTS)
def test_a_run_takes_the_same_next_step_in_whatever_layout_it_is_resumed(saved_in, resumed_in):
    assert next_step(saved_in, resumed_in, Run.load) == [True, True]


@pytest.mark.parametrize("saved_in, resumed_in", [LAYOUTS, LAYOUTS[::-1]])
def test_fused_adam_would_step_wrongly_with_a_state_of_other_strides(saved_in, resumed_in):
    """Where this fails, PyTorch has learned it, and `load` need not lay the state out."""
    def load_alone(run, saved):
        for name in PARTS:
            getattr(run, name).load_state_dict(saved[name])

    assert next_step(saved_in, resumed_in, load_alone) == [False, False]


@pytest.fixture
def coloured(work, monkeypatch):
    """Whether it was in the main thread, for each photo that is "coloured", of a folder of two."""
    (work / "album").mkdir()
    for name in "ab":
        Image.fromarray(noise(8, 8, seed=ord(name))).save(work / f"album/{name}.png")

    def colorize(G, photo, size, strength):
        seen.append(threading.current_thread() is threading.main_thread())
        return photo

    seen = []
    config = {"path": "generator.pt", "data": "demo", "size": 32, "epochs": 1}
    monkeypatch.setattr(infer, "load_generator", lambda *_: SimpleNamespace(config=config))
    monkeypatch.setattr(infer, "colorize", colorize)
    return seen


def infer_on(device, monkeypatch):
    monkeypatch.setattr(infer, "pick_device", lambda name: device)
    return infer.main(["album", "out", "--checkpoint", "generator.pt"])


@pytest.mark.parametrize("cores, threads", [(1, 1), (3, 3), (8, 8), (64, 8)])
def test_a_card_has_a_thread_for_each_core_but_not_more_than_8(
    coloured, monkeypatch, cores, threads
):
    pool = infer.ThreadPoolExecutor
    sizes = []

    def spy(workers, *options):
        sizes.append(workers)
        return pool(workers, *options)

    monkeypatch.setattr(infer, "ThreadPoolExecutor", spy)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert infer_on(NEW_CARD, monkeypatch) == 0
    assert sizes == [threads] and coloured == [False, False]


def test_it_colours_on_the_device_that_was_named(coloured, monkeypatch):
    asked = []
    monkeypatch.setattr(infer, "pick_device", lambda name: asked.append(name) or CPU)
    assert infer.main(["album", "out", "--checkpoint", "generator.pt", "--device", "cuda:1"]) == 0
    assert asked == ["cuda:1"]


def test_on_mps_all_is_done_in_the_main_thread(coloured, monkeypatch):
    assert infer_on(MPS, monkeypatch) == 0
    assert coloured == [True, True]


def test_out_of_memory_names_the_cpu_and_not_the_size_that_G_was_trained_at(
    coloured, monkeypatch, capsys
):
    def fail(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(infer, "colorize", fail)
    assert infer_on(NEW_CARD, monkeypatch) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: out of memory: ") and error.count("\n") == 1
    assert "--device cpu" in error and "--size" not in error


@pytest.mark.parametrize("world, events", [(2, ["trained", "left"]), (1, ["trained"])])
def test_processes_that_met_part_at_the_end(work, scenes, monkeypatch, world, events):
    seen = []
    monkeypatch.setattr(train, "join_processes", lambda device: (1, world))
    monkeypatch.setattr(train, "first_process_first", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(train, "fit", lambda *_: seen.append("trained"))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: seen.append("left"))
    assert train.main(["--data", str(scenes), *TINY]) == 0
    assert seen == events


def test_fewer_photos_than_processes_are_one_clear_line(work, scenes, monkeypatch, capsys):
    """Those without a photo would end in a traceback, and the others wait for them."""
    monkeypatch.setattr(train, "join_processes", lambda device: (1, 21))
    monkeypatch.setattr(train, "first_process_first", lambda *_: contextlib.nullcontext())
    assert train.main(["--data", str(scenes), *TINY]) == 1
    error = capsys.readouterr().err
    assert error == "error: 21 processes have only 20 photos to share: start fewer\n"


SPY = """
import os, sys, torch, train
step = train.pretrain_step
def fail(*args):
    if os.environ["RANK"] == "1":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
    return step(*args)
train.pretrain_step = fail
sys.exit(train.main())
"""


@pytest.fixture(scope="module")
def ended(scenes, tmp_path_factory):
    """Two processes; the second runs out of memory in the first step."""
    folder = tmp_path_factory.mktemp("ended")
    (folder / "spy.py").write_text(SPY)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command += ["spy.py", "--data", str(scenes), *TINY, "--out", "out"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )


def test_a_process_that_runs_out_of_memory_ends_all_and_says_so_once(ended):
    assert ended.returncode != 0
    hint = "error: out of memory: try a smaller --batch-size"
    assert ended.stderr.splitlines().count(hint) == 1
    assert len(ended.stdout.splitlines()) == 1, "how many photos there are, and no epoch"


def test_the_process_that_is_left_shows_no_traceback(ended):
    """torchrun has one of its own; that of a process begins with its rank."""
    assert "[rank0]" not in ended.stderr and "[rank1]" not in ended.stderr


@pytest.mark.parametrize("words", ["Connection closed by peer", "Connection reset by peer"])
def test_a_process_that_is_left_says_so_in_one_line(capsys, words):
    def fail(argv):
        raise RuntimeError(f"[gloo/transport/tcp/pair.cc:561] {words} [127.0.0.1]:35537. GLHF!")

    assert run_program(fail, [], "go on", "buy some") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "process" in error
