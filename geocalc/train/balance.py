"""Load balancing: partition of a batch over processes and micro-batches of about equal work."""

from __future__ import annotations

from collections.abc import Sequence


def deal(sizes: Sequence[int], n: int) -> list[list[int]]:
    """Partition structures into `n` parts of about equal total size.

    The largest structure goes first, always to the part with the smallest sum; equal sizes are
    assigned in turn.

    Args:
        sizes: number of edges of each structure of a batch; a structure without edges counts as one
            edge.
        n: number of parts, at most the number of structures.
    Returns:
        Ascending indices of each part; no part is empty. The largest sum is at most 4/3 of the
            smallest possible one.
    Source: Graham, SIAM J. Appl. Math. 17, 416 (1969).
    """
    shares: list[list[int]] = [[] for _ in range(n)]
    sums = [0] * n
    for place in sorted(range(len(sizes)), key=lambda place: -max(1, sizes[place])):
        smallest = sums.index(min(sums))
        shares[smallest].append(place)
        sums[smallest] += max(1, sizes[place])
    return [sorted(share) for share in shares]


def deal_within(sizes: Sequence[int], n: int, limit: int) -> list[list[int]]:
    """As `deal`, in as many more shares as it takes for none to hold more than `limit` edges; one
    structure that does is alone.
    """
    for more in range(n, len(sizes) + 1):
        shares = deal(sizes, more)
        if all(
            len(share) == 1 or sum(sizes[place] for place in share) <= limit for share in shares
        ):
            return shares
    return shares
