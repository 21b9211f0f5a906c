"""Printing for whoever reads it, for as long as they do."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click


@contextmanager
def while_read() -> Iterator[None]:
    """Ends what is printed quietly when it is interrupted, or when its reader has enough, as `head` does."""
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        click.echo(err=True)
    except BrokenPipeError:
        # What the interpreter still flushes at its end goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
