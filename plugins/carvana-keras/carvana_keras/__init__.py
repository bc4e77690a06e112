"""``carvana import-keras``. Listing the commands imports only this file; h5py is imported when the command runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from carvana.registry import Registry


def register(registry: Registry) -> None:
    """Add the command ``import-keras`` to carvana's registry."""
    registry.commands.register(
        "import-keras",
        "carvana_keras.command:import_keras",
        summary="Read the reference U-Net's weights from a Keras file and write them as a model folder.",
    )
