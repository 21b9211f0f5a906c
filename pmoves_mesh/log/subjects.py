"""NATS subjects and their wildcards."""

from __future__ import annotations


def overlap(one: str, other: str) -> bool:
    """Returns whether there is a subject that both patterns match; a subject is a pattern too.

    Source: NATS documentation, subject-based messaging: `*` is one token, `>` one or more at the end.
    """
    left, right = one.split("."), other.split(".")
    for a, b in zip(left, right, strict=False):
        if ">" in {a, b}:
            return True
        if a != b and "*" not in {a, b}:
            return False
    return len(left) == len(right)
