"""The leaderboard of architectures and runs.

``carvana.compare`` is this package, and it can be called: ``carvana.compare(["unet-ref", "unet/resnet34"])`` is
:func:`carvana.compare.comparison.compare`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from inspect import Signature, signature
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *args: Any, **settings: Any) -> Any:
        """See :func:`carvana.compare.comparison.compare`."""
        from carvana.compare.comparison import compare

        return compare(*args, **settings)

    @property
    def __signature__(self) -> Signature:
        """The function's, for help and editors."""
        from carvana.compare.comparison import compare

        return signature(compare)

    def __reduce__(self) -> tuple[Any, ...]:
        """As functions are pickled: by name."""
        return import_module, (self.__name__,)


# A package and a function of one name: whichever of the two an import finds, both uses work.
sys.modules[__name__].__class__ = _Callable
