"""Whatever a stranger's function raises, told as a broken contract."""

from __future__ import annotations


def broken(what: str, error: Exception) -> AssertionError:
    """An error as the contract's own: one line that begins with the thing's name.

    Args:
        what: The thing, as the lines of its contract begin: ``the loss 'mine'``.
        error: What was raised, by the contract or by the thing itself.
    """
    begin, line = f"{what}: ", " ".join(str(error).split())
    if isinstance(error, AssertionError) and line.startswith(begin):
        return AssertionError(line)
    return AssertionError(f"{begin}{type(error).__name__}: {line}")
