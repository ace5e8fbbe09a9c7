"""The command line: `nll`, one line per error, no logic of its own."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line; exits with 0 (all scored), 1 (some rejected, or a full disk), 2 (wrong
    usage), 130 or 143 (interrupted)."""
    import click

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
    except click.ClickException as error:
        say(error.format_message())
        code = 2
    except BrokenPipeError:
        # The reader of the output (head, less) has gone; leave nothing to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code if isinstance(code, int) else 0)
