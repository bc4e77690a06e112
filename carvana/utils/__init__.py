"""What any part uses: files, devices, processes, progress, memory; and the version, which all that is written has."""

from importlib.metadata import PackageNotFoundError, version

__version__ = "0.1.0"


def version_of(package: str) -> str:
    """The version of an installed package; "" if it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
