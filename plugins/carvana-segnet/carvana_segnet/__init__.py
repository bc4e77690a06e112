"""SegNet for carvana. Listing architectures imports only this file; ``net`` is imported when SegNet is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from carvana.registry import Registry


def register(registry: Registry) -> None:
    """Add the architecture ``segnet`` to carvana's registry."""
    registry.archs.register(
        "segnet",
        "carvana_segnet.net:build",
        summary="SegNet: VGG16 encoder, decoder that unpools by its max-pool indices; no skips, 29.4 M parameters",
    )
