"""What any part uses: files, devices, processes, progress, memory; and the version, which all that is written has."""

__version__ = "0.1.0"
