"""Printing for whoever reads it, for as long as they do."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click

_LOOK_EVERY_MS: Final = 500


@contextmanager
def while_read(*, is_endless: bool = False) -> Iterator[None]:
    """Ends what is printed quietly when it is interrupted, or when its reader has enough, as `head` does.

    Args:
        is_endless: whether there may be nothing to print for a long time, in which a reader may go.
    """
    if is_endless and not sys.stdout.isatty():
        threading.Thread(target=_end_unread, args=(os.dup(sys.stdout.fileno()),), daemon=True).start()
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        click.echo(err=True)
    except BrokenPipeError:
        # What the interpreter still flushes at its end goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end_unread(output: int) -> None:
    """Ends this process when the reader of a pipe is gone; it waits for its next line, and holds none back.

    Source: poll(2), POLLERR and POLLHUP: the other end of a pipe, or of a socket, was closed.
    """
    poll = select.poll()
    poll.register(output, 0)
    while True:
        for _, event in poll.poll(_LOOK_EVERY_MS):
            if event & (select.POLLERR | select.POLLHUP):
                os._exit(0)
            if event & select.POLLNVAL:
                return
