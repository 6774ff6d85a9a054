"""Which versions of what is installed, asked of its metadata: nothing is imported for it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def version_of(package: str) -> str:
    """The version of an installed package, 0 where it is not installed as one."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "0"
