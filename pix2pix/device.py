"""Device, precision, memory, and the processes of torchrun."""
import contextlib
import ctypes
import os
from datetime import timedelta

import torch
from torch import distributed, nn

from pix2pix.terminal import UsageError, UserError

LEFT_OVER = (
    "the environment variables RANK and WORLD_SIZE are set, but not by torchrun: unset them, or "
    "start several processes with torchrun"
)


def set_up(config):
    """Join torchrun's processes, and return the device, the memory format of networks on it, and
    the autocast context in which to call them.
    """
    keep_freed_memory()
    device = pick_device(config.device)
    bf16 = use_bf16(config.precision, device)
    join_processes(device)
    # Autocast's cache would keep the bfloat16 weights of the step before.
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16, cache_enabled=False)
    return device, fast_layout(device, bf16), autocast


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
        raise UsageError(f"--device {name} cannot be used here: {str(error).splitlines()[0]}")
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
    # A100, RTX 30 and newer.
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def fast_layout(device, bf16):
    """channels_last for bfloat16 convolutions, which are faster in it; else contiguous.

    On MPS, BatchNorm's backward fails in channels_last.
    """
    is_faster = bf16 and device.type != "mps"
    return torch.channels_last if is_faster else torch.contiguous_format


def keep_near(images, device):
    """Move the images to the GPU if they fit into a quarter of its free memory."""
    if device.type == "cuda" and images.nbytes < torch.cuda.mem_get_info(device)[0] / 4:
        return images.to(device)
    return images


def keep_freed_memory():
    """Tell glibc to keep freed memory; otherwise each step would fault all its pages in again."""
    with contextlib.suppress(AttributeError, TypeError):        # macOS, Windows
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)             # M_MMAP_MAX: no separate mapping for a large block
        libc.mallopt(-1, -1)            # M_TRIM_THRESHOLD: never shrink the heap


def processes():
    """This process's rank, and the number of processes that torchrun started; (0, 1) without it.

    Raises UserError if the environment has no such numbers.
    """
    try:
        rank = int(os.environ.get("RANK", 0))
        world = int(os.environ.get("WORLD_SIZE", 1))
    except ValueError:
        raise UserError(LEFT_OVER)
    if not 0 <= rank < world:
        raise UserError(LEFT_OVER)
    return rank, world


def join_processes(device):
    """Under torchrun, connect to the other processes. Raises UserError if it was not torchrun."""
    if processes()[1] == 1:
        return
    if not {"RANK", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise UserError(LEFT_OVER)
    is_cuda = device.type == "cuda"
    distributed.init_process_group(
        "nccl" if is_cuda else "gloo",
        device_id=device if is_cuda else None,
        timeout=timedelta(hours=12)                 # rank 0 may prepare photos for hours
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
    wrapped.broadcast_buffers = False           # as an argument, it is deprecated in some versions
    return wrapped


def unwrap_ddp(net):
    """The network itself, without its DDP wrapper."""
    return getattr(net, "module", net)
