"""Turns any error of what is tested into one line that says which contract is broken."""

from __future__ import annotations


def broken(what: str, error: Exception) -> AssertionError:
    """The error as an AssertionError of one line that begins with the name of what is tested.

    Args:
        what: What is tested, as in the messages of its contract: ``the loss 'mine'``.
        error: The error, of the contract or of what is tested.
    """
    begin, line = f"{what}: ", " ".join(str(error).split())
    if isinstance(error, AssertionError) and line.startswith(begin):
        return AssertionError(line)
    return AssertionError(f"{begin}{type(error).__name__}: {line}")
