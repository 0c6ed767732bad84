"""Device, precision, memory, and the processes of torchrun."""
import contextlib
import ctypes
import os
from datetime import timedelta

import torch
from torch import distributed, nn

from pix2pix.terminal import UsageError


def pick_device(name):
    """The torch.device of a name: cpu, cuda:1, mps, or auto (cuda if there is one, else cpu).

    Under torchrun, "cuda" gives each process its own GPU. Raises UsageError for a device that this
    machine does not have, or that this build of PyTorch cannot compute on.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    try:
        device = torch.device(name)
        torch.ones(1, device=device).add(1).item()      # too old a GPU fails at a kernel
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise UsageError(f"--device {name} cannot be used here: {reason}")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def use_bf16(precision, device):
    """Whether to compute in bfloat16. "auto" does if the device multiplies it natively."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cpu":
        features = torch.cpu.get_capabilities()
        return features.get("avx512_bf16") or features.get("amx_bf16", False)
    return _is_ampere(device)


def fast_layout(device, bf16):
    """The memory format in which convolutions are fastest.

    channels_last on GPUs of compute capability 8.0 or later, and for bfloat16 on CPUs; otherwise
    contiguous. On MPS, BatchNorm's backward fails in channels_last.
    """
    channels_last = _is_ampere(device) or (device.type == "cpu" and bf16)
    return torch.channels_last if channels_last else torch.contiguous_format


def _is_ampere(device):
    """Whether this is a GPU of compute capability 8.0 or later: A100, RTX 30 and newer."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def keep_near(images, device):
    """Move the images to the GPU if they fit into a quarter of its free memory."""
    if device.type == "cuda" and images.nbytes < torch.cuda.mem_get_info(device)[0] / 4:
        return images.to(device)
    return images


def keep_freed_memory():
    """Tell glibc to keep freed memory; otherwise each step would fault all its pages in again."""
    with contextlib.suppress(AttributeError):                   # not glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)             # M_MMAP_MAX: no separate mapping for a large block
        libc.mallopt(-1, -1)            # M_TRIM_THRESHOLD: never shrink the heap


def processes():
    """This process's rank, and the number of processes that torchrun started; (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def join_processes(device):
    """Under torchrun, connect to the other processes."""
    if processes()[1] > 1:
        is_cuda = device.type == "cuda"
        distributed.init_process_group(
            "nccl" if is_cuda else "gloo",
            device_id=device if is_cuda else None,
            timeout=timedelta(hours=12)            # rank 0 may prepare photos for hours
        )


@contextlib.contextmanager
def rank_0_first():
    """Run the block in rank 0, then in the other processes: they find what it downloaded."""
    rank, world = processes()
    if rank > 0:
        distributed.barrier()
    yield
    if rank == 0 and world > 1:
        distributed.barrier()


def wrap_ddp(net):
    """Under torchrun, wrap the network to average its gradients over all processes.

    BatchNorm's statistics stay local to each process.
    """
    if not distributed.is_initialized():
        return net
    wrapped = nn.parallel.DistributedDataParallel(net)
    wrapped.broadcast_buffers = False           # the argument of that name warns in some versions
    return wrapped
