"""Files that appear whole or not at all, and dicts of tensors in them."""
import contextlib
import errno
import io
import os
import time
from pathlib import Path

import torch

from pix2pix.models import Generator
from pix2pix.terminal import UserError

# What fsync answers where there is no such thing: SMB, FUSE, network drives of Windows (EBADF).
SYNC_REFUSED = {
    errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EACCES,
    errno.EBADF
}


@contextlib.contextmanager
def whole_file(path):
    """Open `path` for writing bytes. The file appears once it is complete, or not at all.

    Makes missing folders. Raises what writing raises, such as OSError if the disk is full.
    """
    part = path.with_name(f".pix2pix-{os.urandom(8).hex()}")    # short, so never too long
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            _sync(file)
        try:
            os.replace(part, path)
        except PermissionError:         # on Windows, while another program reads the file
            time.sleep(1)
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _sync(file):
    """Wait until the disk has the file, if the file system can tell."""
    try:
        os.fsync(file.fileno())
    except OSError as error:            # a full or broken disk has other codes
        if error.errno not in SYNC_REFUSED:
            raise


def write(path, content):
    """Write the bytes `content` to a whole file."""
    with whole_file(path) as file:
        file.write(content)


def save(path, content):
    """torch.save to a whole file. Serializes in memory, because torch hides why a write failed."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write(path, buffer.getbuffer())


def load_saved(path, kind):
    """The dict that train.py saved at `path`, on the CPU. `kind` is "checkpoint" or "generator".

    Raises OSError if there is no such file, and UserError if it holds something else.
    """
    content = io.BytesIO(Path(path).read_bytes())
    refusal = UserError(f"{path} is not a complete {kind} written by train.py")
    try:
        saved = torch.load(content, map_location="cpu", weights_only=True)
    except Exception:                   # a web page or a truncated file can raise anything
        raise refusal
    if not isinstance(saved, dict) or saved.get("kind") != kind:
        raise refusal
    return saved


def load_generator(path, device="cpu"):
    """The Generator that train.py saved at `path`, ready for inference.

    Its .config is the dict of options it was trained with; "size" is the side of the squares that
    it colors. Raises OSError if there is no such file, and UserError if it holds something else.
    """
    saved = load_saved(path, "generator")
    try:
        config = saved["config"]
        G = Generator(pretrained=False, repairs=bool(config["restore"]))
        G.load_state_dict(saved["weights"])             # float16 becomes float32
        G.config = config | {"size": config.get("color_size", config["size"])}
    except (KeyError, RuntimeError):
        raise UserError(f"{path} is from another version of this program")
    return G.to(device).eval()
