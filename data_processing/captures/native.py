"""Native code in a process of its own, so that its abort is an error and not our end.

This module imports nothing heavy: the process starts with it alone.
"""
from __future__ import annotations

import logging
import multiprocessing
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from utils.errors import UserError


class ProcessDied(RuntimeError):
    """The process ended without a result; the message says how."""


def run_apart(function: Callable[..., Any], *args: Any) -> Any:
    """Return what a function returns that is called in a new process.

    Args:
        function: of a module; called with `args`, all of which are pickled.
    Raises:
        UserError: as the function raised it.
        ProcessDied: the process ended otherwise.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_call, args=(sender, function, args), daemon=True)
    child.start()
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:                                       # it died without a word
        result = None
    except BaseException:                                  # the user stops the script
        child.terminate()
        raise
    finally:
        child.join()
        receiver.close()
    if result is None:
        code = child.exitcode or 0
        raise ProcessDied(f"by signal {signal.Signals(-code).name}" if code < 0
                          else f"with exit code {code}")
    value, error = result
    if error is not None:
        raise error
    return value


def _call(sender: Connection, function: Callable[..., Any], args: tuple) -> None:
    """Call the function and send its result, or the UserError that it raised."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)           # the parent ends this process
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        sender.send((function(*args), None))
    except UserError as error:
        sender.send((None, error))
