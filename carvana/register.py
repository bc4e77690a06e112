"""Adding names from a script or a notebook, without a package of one's own; see ``carvana.plugins`` for packages.

A target is the object itself, or where it is (``"module:attribute"``), imported when it is first used. Commands that
start processes of their own (``carvana compare``, torchrun) know what is registered only if they can import it.
"""

from __future__ import annotations

from carvana.entry import Target
from carvana.registry import registry


def register_arch(name: str, target: Target, *, summary: str = "", replace: bool = False) -> None:
    """Add an architecture, which everything that takes ``unet-ref`` then takes as well.

    Args:
        name: What users write: letters, digits and ``- _ . /``.
        target: A factory ``build(*, classes=1, **options)`` that returns a :class:`carvana.Network`, or a bare
            ``nn.Module``: normalised float images (N, 3, H, W) to logits (N, classes, H, W). If it has an argument
            ``encoder_weights``, it gets what the recipe's ``model.encoder_weights`` says.
        summary: One line for ``carvana archs``.
        replace: Take the place of an entry of the same name.

    Raises:
        CarvanaError: the name is taken and ``replace`` is not set, or is no name, or the target is none.

    Example:
        >>> import carvana
        >>> from torch import nn
        >>> carvana.register_arch("one-layer", lambda *, classes: nn.Conv2d(3, classes, 3, padding=1))
        >>> carvana.create_model("one-layer").spec.package
        'script'
    """
    registry.archs.register(name, target, summary=summary, replace=replace)


def register_loss(name: str, target: Target, *, summary: str = "", replace: bool = False) -> None:
    """Add a loss, which ``train.loss`` then takes, alone or in a sum: ``bce + 0.5*mine``.

    Args:
        name: Letters, digits, ``-`` and ``_``, a letter first.
        target: A factory without arguments. What it returns is called as ``loss(logits, targets)``: both
            (N, classes, H, W), targets float in [0, 1], the share of each pixel that the object covers; it gives a
            scalar to minimise.
        summary: One line for listings.
        replace: Take the place of an entry of the same name.

    Raises:
        CarvanaError: see :func:`register_arch`.

    Example:
        >>> import carvana
        >>> def squared():
        ...     return lambda logits, targets: (logits.sigmoid() - targets).square().mean()
        >>> carvana.register_loss("squared", squared)
        >>> carvana.load_config(changes={"train.loss": "bce + squared"}).train.loss
        'bce + squared'
    """
    registry.losses.register(name, target, summary=summary, replace=replace)


def register_augment(name: str, target: Target, *, summary: str = "", replace: bool = False) -> None:
    """Add an augmentation, which ``data.augment`` then takes.

    Args:
        name: See :func:`register_arch`.
        target: A factory without arguments. What it returns is called as ``augment(image=..., mask=...)``, image uint8
            (H, W, 3) and mask float32 (H, W) in [0, 1], and gives a mapping with the same two keys. For
            albumentations' ``Compose`` pass ``mask_interpolation=cv2.INTER_LINEAR``: its default destroys coverage, and
            is refused.
        summary: One line for listings.
        replace: Take the place of an entry of the same name.

    Raises:
        CarvanaError: see :func:`register_arch`.

    Example:
        >>> import carvana
        >>> def upside_down():
        ...     return lambda image, mask: {"image": image[::-1].copy(), "mask": mask[::-1].copy()}
        >>> carvana.register_augment("upside-down", upside_down)
    """
    registry.augments.register(name, target, summary=summary, replace=replace)


def register_layout(name: str, target: Target, *, summary: str = "", replace: bool = False) -> None:
    """Add a reader of a layout of data folders; ``data.root``, ``find_samples`` and ``carvana data`` then know it.

    Args:
        name: See :func:`register_arch`.
        target: A function of the data folder (a Path). It returns None where the folder is not laid out so, a pair
            (folder of images, folder of masks) whose files are matched by name, or any iterable of
            :class:`carvana.Sample`. The layout that was registered last is asked first, the built-in ones last.
        summary: One line for listings.
        replace: Take the place of an entry of the same name.

    Raises:
        CarvanaError: see :func:`register_arch`.

    Example:
        >>> import carvana
        >>> def voc(root):
        ...     folders = root / "JPEGImages", root / "SegmentationClass"
        ...     return folders if folders[0].is_dir() else None
        >>> carvana.register_layout("voc", voc)
    """
    registry.layouts.register(name, target, summary=summary, replace=replace)
