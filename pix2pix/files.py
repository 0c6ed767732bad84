"""Files that appear whole or not at all; dicts of tensors in them."""
import contextlib
import io
import os
from pathlib import Path

import torch

from pix2pix.terminal import UserError


@contextlib.contextmanager
def whole_file(path):
    """Open `path` for writing bytes; it appears when all of it is on the disk, or not at all.

    The folders that lead to it are made. Raises what writing raises: OSError, when a disk is full.
    """
    part = path.with_name(f".pix2pix-{os.urandom(8).hex()}")    # a long name might become too long
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write(path, content):
    """Write a whole file, as `whole_file` does."""
    with whole_file(path) as file:
        file.write(content)


def save(path, content):
    """torch.save to a whole file; in memory first, because torch hides why a write failed."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write(path, buffer.getbuffer())


def load_saved(path, kind):
    """The dict that train.py saved at `path`, on the CPU; its kind: "checkpoint" or "generator".

    Raises OSError where there is no such file, and UserError unless it is a whole one of this kind.
    """
    content = io.BytesIO(Path(path).read_bytes())
    refusal = UserError(f"{path} is not a {kind} that train.py wrote, or not the whole of one")
    try:
        saved = torch.load(content, map_location="cpu", weights_only=True)
    except Exception:                   # a web page, a cut file, another program's: no end of types
        raise refusal
    if not isinstance(saved, dict) or saved.get("kind") != kind:
        raise refusal
    return saved
