"""What all contracts share: whatever is broken becomes one line that begins with the name of what is tested."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class ContractError(AssertionError):
    """A contract is broken; the message says how."""


def expect(holds: bool, otherwise: str) -> None:
    """Raise ``ContractError`` with the message ``otherwise``, unless it holds."""
    if not holds:
        raise ContractError(otherwise)


@contextmanager
def contract(what: str) -> Iterator[None]:
    """Make every error within the block, of the contract or of what is tested, an AssertionError of one line.

    Args:
        what: What is tested, such as ``the loss 'mine'``; the line begins with it.
    """
    try:
        yield
    except Exception as error:  # other people's code raises anything, assertions of its own too
        kind = "" if isinstance(error, ContractError) else f"{type(error).__name__}: "
        raise AssertionError(f"{what}: {kind}{' '.join(str(error).split())}") from error
