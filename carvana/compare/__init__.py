"""The leaderboard of architectures and runs.

``carvana.compare`` is this package, and it can be called: ``carvana.compare(["unet-ref", "unet/resnet34"])`` is
:func:`carvana.compare.comparison.compare`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *args: Any, **settings: Any) -> Any:
        """See :func:`carvana.compare.comparison.compare`."""
        from carvana.compare.comparison import compare

        return compare(*args, **settings)


# A package and a function of one name: whichever of the two an import finds, both uses work.
sys.modules[__name__].__class__ = _Callable
