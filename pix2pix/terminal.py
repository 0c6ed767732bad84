"""What a person at a terminal sees: errors that say what to do, exit codes, the progress line."""
import argparse
import os
import sys
import time
import warnings


class UserError(Exception):
    """Something that the person at the keyboard can mend; the message is one line that says how."""


class UsageError(UserError):
    """The same, in what was typed."""


class ArgumentParser(argparse.ArgumentParser):
    """argparse's, whose errors are ours: one line."""

    def error(self, message):
        raise UsageError(f"{message} (see {self.prog} --help)")


def run_program(program, argv, if_interrupted, if_out_of_memory):
    """The exit code of `program(argv)`: its own, or 1, 2 or 130 after one line on stderr.

    What a person cannot mend, a fault of the program, is raised on.
    """
    warnings.filterwarnings("ignore", module="PIL")     # of odd files: nobody could mend them
    try:
        return program(argv)
    except KeyboardInterrupt:
        message = f"interrupted: {if_interrupted}"
        exit_code = 130
    except (UserError, OSError) as error:               # OSError: a full disk, no permission
        message = f"error: {error}"
        exit_code = 2 if isinstance(error, UsageError) else 1
    except (RuntimeError, MemoryError) as error:
        # torch has no common type for devices that are full, only these words.
        signs = ("out of memory", "allocate memory", "ALLOC_FAILED", "MemoryError")
        if any(sign in repr(error) for sign in signs):
            message = f"error: out of memory: {if_out_of_memory}"
        elif "by peer" in str(error):                   # gloo's "Connection closed by peer"
            message = "error: another process has failed"
        else:
            raise
        exit_code = 1
    clear_line()
    print(message, file=sys.stderr)
    return exit_code


def progress(items, total, label):
    """Yield the `total` items.

    On a terminal a line tells how many are done, and the time left; elsewhere nothing is printed.
    """
    # Under torchrun, the first process alone shows it.
    visible = sys.stderr.isatty() and os.environ.get("RANK", "0") == "0"
    start = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        if visible:
            left = time.gmtime((time.monotonic() - start) / count * (total - count))
            print(f"\r{label} {count}/{total}, {time.strftime('%H:%M:%S', left)} left\033[K",
                  end="", file=sys.stderr, flush=True)
    clear_line()


def clear_line():
    """Leave no progress line behind."""
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
