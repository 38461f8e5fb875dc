"""A suggestion for a mistyped name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

ALIKE = 0.5  # least similarity (0 to 1) of a name that is suggested
MARGIN = 0.15  # names less similar than the best one by more than this are left out
SURE = 0.9  # a name as similar as this is the only suggestion
MOST = 3  # suggestions


def nearest(name: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """Suggest the known names that resemble a mistyped one; upper and lower case are the same.

    Args:
        name: the name as it was given.
        known: the allowed names.
        otherwise: text for a name that resembles none of them; by default the list of all.
    Returns:
        "did you mean `x`?", "did you mean `x` or `y`?" or `otherwise`.
    """
    names = list(dict.fromkeys(known))
    scores = {one: SequenceMatcher(None, one.lower(), name.lower()).ratio() for one in names}
    least = max(ALIKE, max(scores.values(), default=0.0) - MARGIN)
    close = sorted((one for one in names if scores[one] >= least), key=lambda one: -scores[one])
    if close:
        close = close[: 1 if scores[close[0]] >= SURE else MOST]
        return f"did you mean {' or '.join(f'`{one}`' for one in close)}?"
    return f"known are {', '.join(names)}" if otherwise is None else otherwise
