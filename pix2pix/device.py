"""Where and how it is computed: device, precision, memory, processes of torchrun, seeds."""
import contextlib
import ctypes
import hashlib
import os
from datetime import timedelta

import torch
from torch import distributed, nn

from pix2pix.terminal import UsageError


def pick_device(name):
    """The device of a name: cpu, cuda:1, mps, or auto: cuda where there is one, else cpu.

    Under torchrun "cuda" is a GPU of its own for each process. Raises UsageError for a device that
    this machine has not, or that this build of PyTorch cannot compute on.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    try:
        device = torch.device(name)
        torch.ones(1, device=device).add(1).item()      # a card that is too old fails at a kernel
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise UsageError(f"--device {name} cannot be used here: {reason}")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def use_bf16(precision, device):
    """Whether to compute in bfloat16; auto: where the device multiplies in it natively."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cpu":
        features = torch.cpu.get_capabilities()
        return features.get("avx512_bf16") or features.get("amx_bf16", False)
    return _is_ampere(device)


def fast_layout(device, bf16):
    """The memory format in which convolutions are fastest: channels_last, or contiguous.

    The first on GPUs of compute capability 8.0 and more, and for bfloat16 on CPUs; not on MPS,
    where BatchNorm's backward fails in it.
    """
    channels_last = _is_ampere(device) or (device.type == "cpu" and bf16)
    return torch.channels_last if channels_last else torch.contiguous_format


def _is_ampere(device):
    """Whether it is a GPU of compute capability 8.0 or more: A100, RTX 30 and later."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def keep_near(images, device):
    """The set in the GPU's memory, if a quarter of what is free there holds it; else as it is."""
    if device.type == "cuda" and images.nbytes < torch.cuda.mem_get_info(device)[0] / 4:
        return images.to(device)
    return images


def keep_freed_memory():
    """Tell glibc to keep large blocks that are freed: each step would fault them all in again."""
    with contextlib.suppress(AttributeError):                   # other C libraries
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)             # M_MMAP_MAX: no mapping of its own for a large block
        libc.mallopt(-1, -1)            # M_TRIM_THRESHOLD: never shrink the heap


def seeded(seed, device="cpu"):
    """A generator of a seed, a number or several as (seed, epoch): neighbours share nothing."""
    digest = hashlib.sha256(str(seed).encode()).hexdigest()
    return torch.Generator(device).manual_seed(int(digest[:15], 16))


def join_processes(device):
    """Meet the other processes, if torchrun started any: this one's rank, and their number."""
    rank = int(os.environ.get("RANK", 0))
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world > 1:
        is_cuda = device.type == "cuda"
        distributed.init_process_group(
            "nccl" if is_cuda else "gloo",
            device_id=device if is_cuda else None,
            timeout=timedelta(hours=12)            # the others wait while the first prepares photos
        )
    return rank, world


@contextlib.contextmanager
def first_process_first(rank, world):
    """Let the first process through, and then the others: they find what it downloaded."""
    if rank > 0:
        distributed.barrier()
    yield
    if rank == 0 and world > 1:
        distributed.barrier()


def share_gradients(net):
    """Under torchrun the network with gradients that are means over all processes; else as it is.

    BatchNorm's statistics stay each process's own.
    """
    if not distributed.is_initialized():
        return net
    shared = nn.parallel.DistributedDataParallel(net)
    shared.broadcast_buffers = False            # as an option, it warns in some versions
    return shared
