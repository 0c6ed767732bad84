"""What people see at a terminal: errors that say what to do, exit codes, the progress line."""
import argparse
import os
import sys
import warnings

import torch


class UserError(Exception):
    """A problem that the user can fix. The message is one line that says how."""


class UsageError(UserError):
    """A mistake on the command line."""


class ArgumentParser(argparse.ArgumentParser):
    """argparse's parser, with one-line errors."""

    def error(self, message):
        raise UsageError(f"{message} (see {self.prog} --help)")


def warn(name, message):
    print(f"warning: {name}: {message}", file=sys.stderr)


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
        # On the CPU, torch raises a plain RuntimeError with these words.
        is_full = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if not is_full and "can't allocate memory" not in str(error):
            raise
        message = f"error: out of memory: {if_out_of_memory}"
        exit_code = 1
    clear_line()
    print(message, file=sys.stderr)
    return exit_code


def _printable(stream):
    """The stream, escaping what its encoding lacks (cp1252 on Windows); if it is closed, none."""
    if stream is None or stream.closed:
        return open(os.devnull, "w", errors="backslashreplace")
    if hasattr(stream, "reconfigure"):                  # a notebook's has not
        stream.reconfigure(errors="backslashreplace")
    return stream


def progress(items, total, label):
    """Yield the `total` items. On a terminal, a line shows how many are done."""
    # Under torchrun, only rank 0 shows it.
    visible = sys.stderr.isatty() and os.environ.get("RANK", "0") == "0"
    for count, item in enumerate(items, 1):
        yield item
        if visible:
            print(f"\r{label}: {count}/{total}", end="", file=sys.stderr, flush=True)
    clear_line()


def clear_line():
    """Erase the progress line."""
    if sys.stderr.isatty():
        print(f"\r{'':79}\r", end="", file=sys.stderr, flush=True)
