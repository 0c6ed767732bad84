"""What people see at a terminal: errors that say what to do, exit codes, the progress line."""
import argparse
import os
import re
import sys
import time
import warnings
from collections import deque

import torch

COLUMNS = 79                                            # of the progress line
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")    # what could end or spoil a line


class UserError(Exception):
    """A problem that the user can fix. The message is one line that says how."""


class UsageError(UserError):
    """A mistake on the command line."""


class ArgumentParser(argparse.ArgumentParser):
    """argparse's parser, with one-line errors."""

    def error(self, message):
        raise UsageError(f"{message} (see {self.prog} --help)")


def warn(name, message):
    print_line(f"warning: {name}: {message}")


def run_program(program, argv, if_interrupted, if_out_of_memory):
    """The exit code of `program(argv)`: its own, or 1, 2 or 130 after one line on stderr.

    Anything that the user cannot fix, such as a bug in this program, is raised as it is.
    """
    warnings.filterwarnings("ignore", module="PIL")     # about odd files: nobody can act on them
    sys.stdout = _printable(sys.stdout)
    sys.stderr = _printable(sys.stderr)
    try:
        return program(argv)
    except KeyboardInterrupt:
        message = f"interrupted: {if_interrupted}"
        exit_code = 130
    except (UserError, OSError) as error:               # OSError: a full disk, no permission
        message = f"error: {error}"
        exit_code = 2 if isinstance(error, UsageError) else 1
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        message = f"error: out of memory: {if_out_of_memory}"
        exit_code = 1
    print_line(message)
    return exit_code


def is_out_of_memory(error):
    # On the CPU, torch raises a plain RuntimeError with these words.
    is_full = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return is_full or "can't allocate memory" in str(error)


def _printable(stream):
    """The stream, escaping what its encoding lacks (cp1252 on Windows); if it is closed, none."""
    if stream is None or stream.closed:
        return open(os.devnull, "w", errors="backslashreplace")
    if hasattr(stream, "reconfigure"):                  # a notebook's has not
        stream.reconfigure(errors="backslashreplace")
    return stream


def progress(items, total, label, pictures=0):
    """Yield the `total` items. On a terminal, a line shows how many are done and the time left.

    If an item is a step that takes so many `pictures`, it also shows pictures a second.
    """
    marks = deque([(time.monotonic(), 0)])      # of the last minute: when how many were done
    for count, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if not _is_visible() or now - marks[-1][0] < 0.1:
            continue
        start, done_before = marks[0]
        speed = (count - done_before) / (now - start)   # items a second
        line = f"{label}: {count}/{total}, "
        if pictures:
            line += f"{speed * pictures:.1f} pictures/s, "
        line += f"{_in_words((total - count) / speed)} left"
        print(f"\r{line[:COLUMNS]:{COLUMNS}}", end="", file=sys.stderr, flush=True)
        marks.append((now, count))
        if now - start > 60:
            marks.popleft()
    _clear_line()


def print_line(message):
    """Print an error or a warning as one line, whatever the names of files in it."""
    _clear_line()
    line = CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), message)
    print(line, file=sys.stderr)


def _in_words(seconds):
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"


def _is_visible():
    """Whether there is a progress line: on a terminal; under torchrun, for rank 0."""
    return sys.stderr.isatty() and os.environ.get("RANK", "0") == "0"


def _clear_line():
    if _is_visible():
        print(f"\r{'':{COLUMNS}}\r", end="", file=sys.stderr, flush=True)
