"""The command line: `nll`, one line per error, no logic of its own."""

from __future__ import annotations

import os
import sys
from typing import Any


def main() -> None:
    """Run the command line; exits with 0 (all scored), 1 (some rejected, or a full disk), 2 (wrong
    usage), 130 or 143 (interrupted)."""
    from nll._errors import NllError
    from nll.cli._app import app
    from nll.cli._terminal import Interrupted, interruptible, say

    try:
        with interruptible():
            code = app(standalone_mode=False)
    except Interrupted as signal:
        code = signal.exit_code
    except NllError as error:
        if os.environ.get("NLL_DEBUG") == "1":
            raise
        say(str(error))
        code = getattr(error, "exit_code", 2)
    except _usage_error() as error:
        told = str(error.format_message())
        if type(error).__name__ == "NoArgsIsHelpError":  # a command without anything: its help
            sys.stderr.write(f"{told}\n")
        else:
            say(" ".join(told.split()))
        code = 2
    except BrokenPipeError:
        # The reader of the output (head, less) has gone; leave nothing to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        if os.environ.get("NLL_DEBUG") == "1":
            raise
        where = f"{error.filename}: " if error.filename else ""
        say(f"{where}{error.strerror or error}")
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _usage_error() -> Any:
    """ClickException, by way of typer, which brings a click of its own in newer versions."""
    from typer import BadParameter

    return next(c for c in BadParameter.__mro__ if c.__name__ == "ClickException")
