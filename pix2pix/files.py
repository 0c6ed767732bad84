"""Files that appear whole or not at all."""
import contextlib
import errno
import os
import time

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
