"""Device, precision, memory, processes and seeds: GPUs are played by fakes."""
import ctypes
import datetime
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import train
from pix2pix.device import (
    fast_layout, join_processes, keep_freed_memory, keep_near, pick_device, processes, rank_0_first,
    use_bf16, wrap_ddp
)
from pix2pix.terminal import UsageError
from tests.helpers import CPU, MPS, NEW_CARD, OLD_CARD, error_line, raising, run, stub, watch

NO_KERNEL = "CUDA error: no kernel image is available for execution on the device"


@pytest.fixture
def cards(monkeypatch):
    """Two cards that are not there, an RTX 2080 and an A100; the first is the current one."""
    capabilities = {OLD_CARD: (7, 5), NEW_CARD: (8, 0)}

    def capability(device=None):
        return capabilities[torch.device("cuda:0" if device is None else device)]

    monkeypatch.setattr(torch.cuda, "get_device_capability", capability)
    stub(monkeypatch, torch.cuda, "is_available", result=True)


@pytest.fixture
def chosen(cards, monkeypatch):
    """The calls of `set_device`; a tensor of ones can be made on any device."""
    monkeypatch.setattr(torch, "ones", lambda *shape, device: torch.zeros(shape))
    return stub(monkeypatch, torch.cuda, "set_device")


def devices(calls):
    return [torch.device(call["device"]) for call in calls]


@pytest.fixture
def broken_card(chosen, monkeypatch):
    """A card that has memory, but for which PyTorch has no kernels."""
    class Ones:
        add = raising(torch.AcceleratorError(f"{NO_KERNEL}\nCUDA errors might be reported late"))

    monkeypatch.setattr(torch, "ones", lambda *shape, device: Ones())


def test_a_device_that_is_not_there_is_a_usage_error():
    assert pick_device("cpu") == CPU
    # PyTorch knows all but the first, but this build has none of them; "meta" computes nothing.
    for name in ("nonsense", "hpu", "xla", "mtia", "meta"):
        with pytest.raises(UsageError, match=f"--device {name} cannot be used here: .{{10,}}\\Z"):
            pick_device(name)


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_every_process_of_torchrun_gets_a_card_of_its_own(chosen, monkeypatch, name):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device(name) == torch.device("cuda:1")
    assert devices(chosen) == [torch.device("cuda:1")]


@pytest.mark.parametrize("name, card", [("auto", 0), ("cuda", 0), ("cuda:1", 1)])
def test_without_torchrun_the_card_is_the_first_or_the_one_that_is_named(
    chosen, monkeypatch, name, card
):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert pick_device(name) == torch.device("cuda", card)
    assert devices(chosen) == [torch.device("cuda", card)]


def test_a_card_that_is_named_is_used_under_torchrun_too(chosen, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device("cuda:0") == torch.device("cuda:0")


def test_a_card_without_kernels_is_found_before_it_is_chosen(broken_card, chosen):
    with pytest.raises(UsageError, match="no kernel image"):
        pick_device("cuda:1")
    assert chosen == []


def test_a_card_without_kernels_is_one_clear_line_and_changes_nothing(broken_card, work, capsys):
    assert run(train, "--data", "demo", "--no-pretrained", "--device", "cuda:1") == 2
    printed = capsys.readouterr()
    assert error_line(printed.err) == f"--device cuda:1 cannot be used here: {NO_KERNEL}"
    assert printed.out == "" and list(work.iterdir()) == []


@pytest.mark.parametrize(
    "features, expected",
    [
        ({}, False),
        ({"avx512_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True)
    ]
)
def test_automatic_precision_is_bfloat16_only_where_the_processor_has_it(
    monkeypatch, features, expected
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert use_bf16("auto", CPU) is expected
    assert use_bf16("bf16", CPU) and not use_bf16("fp32", CPU)


def test_automatic_precision_asks_the_chosen_card_and_not_the_current_one(cards):
    assert use_bf16("auto", NEW_CARD) and not use_bf16("auto", OLD_CARD)


@pytest.mark.parametrize(
    "device, bf16, layout",
    [
        (NEW_CARD, True, torch.channels_last),
        (NEW_CARD, False, torch.contiguous_format),
        (OLD_CARD, True, torch.channels_last),
        (OLD_CARD, False, torch.contiguous_format),
        (MPS, True, torch.contiguous_format),
        (MPS, False, torch.contiguous_format),
        (CPU, True, torch.channels_last),
        (CPU, False, torch.contiguous_format)
    ]
)
def test_channels_last_is_for_bfloat16_but_never_on_mps(device, bf16, layout):
    assert fast_layout(device, bf16) == layout


@pytest.fixture
def free_memory(monkeypatch):
    """How many bytes are free on each card, for the test to set."""
    free = {}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[device], 80 * 2**30))
    return free


@pytest.fixture
def images(monkeypatch):
    """Pictures that can move to any device; what arrives there is its name."""
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device: f"on {device}")
    return torch.empty(100, 3, 32, 32, dtype=torch.uint8)


def test_a_set_moves_to_the_card_if_a_quarter_of_the_free_memory_holds_it(free_memory, images):
    free_memory[NEW_CARD] = 4 * images.nbytes + 4
    assert keep_near(images, NEW_CARD) == "on cuda:1"


def test_a_larger_set_stays_on_the_disk(free_memory, images):
    free_memory[NEW_CARD] = 4 * images.nbytes - 4
    assert keep_near(images, NEW_CARD) is images


@pytest.mark.parametrize("device", [CPU, MPS])
def test_without_a_card_a_set_stays_on_the_disk(free_memory, images, device):
    assert keep_near(images, device) is images


@pytest.fixture
def meetings(monkeypatch):
    """The calls that make a process group, in process 3 of 4."""
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "29500")
    return stub(monkeypatch, torch.distributed, "init_process_group")


@pytest.mark.parametrize(
    "device, backend, card", [(CPU, "gloo", None), (NEW_CARD, "nccl", NEW_CARD)]
)
def test_processes_meet_by_gloo_on_cpus_and_by_nccl_on_the_card_of_each(
    meetings, device, backend, card
):
    join_processes(device)
    assert processes() == (3, 4)
    assert [(call["backend"], call["device_id"]) for call in meetings] == [(backend, card)]


@pytest.mark.parametrize("device", [CPU, NEW_CARD])
def test_processes_wait_for_hours_while_the_first_prepares_the_photos(meetings, device):
    join_processes(device)
    assert meetings[0]["timeout"] >= datetime.timedelta(hours=2)


def test_a_process_alone_meets_nobody(meetings, monkeypatch):
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    join_processes(CPU)
    assert processes() == (0, 1) and meetings == []


@pytest.mark.parametrize(
    "left_over",
    [
        {"WORLD_SIZE": "2"},
        {"RANK": "3"},
        {"RANK": "0", "WORLD_SIZE": "2"},
        {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"},
        {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"},
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"RANK": "-1"},
        {"RANK": "", "WORLD_SIZE": "two"}
    ]
)
def test_variables_left_over_from_torchrun_are_one_clear_line(
    work, monkeypatch, capsys, left_over
):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in left_over.items():
        monkeypatch.setenv(name, value)
    assert run(train, "--data", "demo", "--no-pretrained", "--device", "cpu") == 1
    message = error_line(capsys.readouterr().err)
    assert message.startswith("the environment variables RANK and WORLD_SIZE are set, but not by")
    assert "unset them" in message and list(work.iterdir()) == []


def test_one_process_of_torchrun_meets_nobody(meetings, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    join_processes(CPU)
    assert processes() == (0, 1) and meetings == []


@pytest.mark.parametrize(
    "rank, world, events",
    [(0, 2, ["prepared", "met"]), (1, 2, ["met", "prepared"]), (0, 1, ["prepared"])]
)
def test_the_others_prepare_nothing_before_the_first_process_has(
    monkeypatch, rank, world, events
):
    seen = []
    watch(monkeypatch, torch.distributed, "barrier", instead=lambda: seen.append("met"))
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(world))
    with rank_0_first():
        seen.append("prepared")
    assert seen == events


def test_a_process_alone_wraps_no_network():
    net = nn.Conv2d(1, 1, 1)
    assert wrap_ddp(net) is net


def test_processes_share_gradients_and_no_buffers(monkeypatch):
    """BatchNorm's statistics and D's spectral norms stay those of each process."""
    wrapper = SimpleNamespace(broadcast_buffers=True)
    wrapped = stub(monkeypatch, nn.parallel, "DistributedDataParallel", result=wrapper)
    stub(monkeypatch, torch.distributed, "is_initialized", result=True)
    net = nn.Conv2d(1, 1, 1)
    assert wrap_ddp(net) is wrapper and not wrapper.broadcast_buffers
    assert wrapped == [{"module": net}], "as an argument, it would warn"


def test_glibc_is_told_to_keep_freed_memory(monkeypatch):
    told = []
    libc = SimpleNamespace(mallopt=lambda *option: told.append(option))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: libc)
    keep_freed_memory()
    assert told == [(-4, 0), (-1, -1)]


@pytest.mark.parametrize(
    "load",
    [raising(TypeError("bad argument type for built-in operation")), lambda name: object()],
    ids=["Windows", "macOS"]
)
def test_without_glibc_nothing_is_told(monkeypatch, load):
    monkeypatch.setattr(ctypes, "CDLL", load)
    keep_freed_memory()
