"""e3nn is optional: who asks for what needs it is told how to get it."""

from __future__ import annotations

from importlib.util import find_spec

from geocalc.errors import MissingDependencyError


def require_e3nn(what: str) -> None:
    """Raise unless e3nn is installed.

    Args:
        what: that needs it, as the message says.
    Raises:
        MissingDependencyError: it is not; the message names the extra.
    """
    if find_spec("e3nn") is None:
        raise MissingDependencyError(
            f"{what} needs e3nn; install it with: pip install 'geocalc[e3nn]'"
        )
