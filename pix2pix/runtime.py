"""What both scripts need: errors made for people, device and precision, whole files, a progress line."""
import argparse
import contextlib
import ctypes
import hashlib
import io
import os
import sys
import time
from pathlib import Path

import torch


class UserError(Exception):
    """Something that the person at the keyboard can mend; the message is one line that says how."""


class UsageError(UserError):
    exit_code = 2


def require(fact, message: str, error: type = UserError) -> None:
    """Raise error(message) unless the fact is one."""
    if not fact:
        raise error(message)


class ArgumentParser(argparse.ArgumentParser):
    def error(self, message):
        raise UsageError(f"{message} (see {self.prog} --help)")


def run(program, argv, if_interrupted: str, memory_option: str) -> int:
    """Exit code of `program(argv)`; what a person can mend ends in one line on stderr and code 1, 2 or 130."""
    keep_freed_memory()
    try:
        return program(argv)
    except (UserError, OSError) as error:                        # OSError: a full disk, a folder without permission
        message, exit_code = f"error: {error}", getattr(error, "exit_code", 1)
    except (RuntimeError, MemoryError) as error:                 # torch has no common type for devices that are full
        if not any(sign in repr(error) for sign in ("out of memory", "allocate memory", "ALLOC_FAILED", "MemoryError")):
            raise
        message, exit_code = f"error: out of memory, try a smaller {memory_option}", 1
    except KeyboardInterrupt:
        message, exit_code = f"interrupted: {if_interrupted}", 130
    print("\r\033[K" * sys.stderr.isatty() + message, file=sys.stderr)           # over a progress line
    return exit_code


def keep_freed_memory() -> None:
    """Tell glibc not to hand large blocks back at every free: each step would fault them all in again."""
    with contextlib.suppress(AttributeError):                    # other C libraries
        ctypes.CDLL(None).mallopt(-4, 0)                         # M_MMAP_MAX: no mapping of its own for a large block
        ctypes.CDLL(None).mallopt(-1, -1)                        # M_TRIM_THRESHOLD: never shrink the heap


def pick_device(name: str) -> torch.device:
    """auto is cuda, else cpu; a device that this machine lacks is a UsageError."""
    best = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"       # one GPU a process
    try:
        return torch.empty(0, device=name.replace("auto", best)).device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name} cannot be used here: {str(error).splitlines()[0]}") from error


def use_bf16(precision: str, device: torch.device) -> bool:
    """auto is bfloat16 where the device multiplies in it natively: elsewhere it would be slower than float32."""
    cpu = any(torch.cpu.get_capabilities().get(feature) for feature in ("avx512_bf16", "amx_bf16"))
    cuda = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return {"cpu": cpu, "cuda": cuda}.get(device.type, False) if precision == "auto" else precision == "bf16"


def seeded(seed, device="cpu") -> torch.Generator:
    """A generator of a seed, a number or several such as (seed, epoch): neighbouring ones share nothing."""
    return torch.Generator(device).manual_seed(int(hashlib.sha256(str(seed).encode()).hexdigest()[:15], 16))


@contextlib.contextmanager
def whole_file(path: Path, check=lambda part: None):
    """Open `path` for writing bytes; it appears under its name when all of it is on the disk, or not at all.

    The folders that lead to it are made. It does not appear if check(the file before it has its name) raises.
    """
    part = path.with_name(f".pix2pix-{os.urandom(8).hex()}")     # short: a name may be as long as the disk allows
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        check(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write(path: Path, content: bytes, check=lambda part: None) -> None:
    """A whole file, as of whole_file."""
    with whole_file(path, check) as file:
        file.write(content)


def save(path: Path, content: dict) -> None:
    """torch.save to a whole file; in memory first, because torch hides why a write failed."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write(path, buffer.getbuffer())


def load_saved(path: Path, kind: str) -> dict:
    """The dict that train.py saved at `path`, on the CPU; UserError unless it is a whole one of this kind."""
    content = io.BytesIO(path.read_bytes())          # OSError, if there is no such file
    try:
        saved = torch.load(content, map_location="cpu", weights_only=True)
        require(isinstance(saved, dict) and saved["kind"] == kind, "another kind of file")
    except Exception as error:                       # a web page, a cut file, another program's: no end of types
        raise UserError(f"{path} is not a {kind} that train.py wrote, or not the whole of one") from error
    return saved


def progress(items, total: int, label, unit: str, size: int = 1):
    """Yield the `total` items, each worth `size` units; on a terminal, keep a line with the rate and the time left.

    The label, of any type, is turned into text anew each time.
    """
    start = shown = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if sys.stderr.isatty() and os.environ.get("RANK", "0") == "0" and now - shown > 0.2:     # rank: of torchrun's
            shown, rate = now, count / (now - start)
            left = time.strftime("%H:%M:%S", time.gmtime((total - count) / rate))
            line = f"{label}: {count * size}/{total * size} {unit}, {rate * size:.1f} a second, {left} left"
            print(f"\r{line}\033[K", end="", file=sys.stderr, flush=True)
    print("\r\033[K" * sys.stderr.isatty(), end="", file=sys.stderr, flush=True)
