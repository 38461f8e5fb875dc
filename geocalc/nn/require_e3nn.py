"""Check for the optional package e3nn."""

from __future__ import annotations

from importlib.util import find_spec

from geocalc.errors import MissingDependencyError


def require_e3nn(feature: str) -> None:
    """Raise an error unless e3nn is installed.

    Args:
        feature: what needs e3nn, the subject of the message.
    Raises:
        MissingDependencyError: e3nn is not installed; the message names the extra to install.
    """
    if find_spec("e3nn") is None:
        raise MissingDependencyError(
            f"{feature} needs e3nn; install it with: pip install 'geocalc[e3nn]'"
        )
