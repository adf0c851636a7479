"""The speakers of vectors that are all there: agglomerative clustering by average linkage. Pure.

The two groups whose vectors are most like one another, on average over all pairs, become one, until
none are alike. Since vectors have length 1 that average is the product of the groups' sums over
their counts, so that a group is its sum and its count, however many vectors it has. Vectors are
taken ``_AT_ONCE`` at a time, and their groups then: memory is bounded by that square. A group that
is too small is of the moments in which one voice follows another, and no speaker. Last, each vector
goes to the speaker whose mean is nearest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from voxlive.values import Samples

_AT_ONCE = 600
_ROUNDS = 3
_NEVER = -9.0


def cluster(vectors: Samples, speakers: int | None, most: int, alike: float) -> list[int]:
    """A label from 0 for each of the vectors, float32 [n, d] of length 1.

    ``speakers``: how many there are, None where that is not known: then ``most`` at the most.
    ``alike``: the cosine, on average over the pairs, from which on two groups are one voice's.
    """
    groups = [np.array([number]) for number in range(len(vectors))]
    pieces = range(0, len(groups), _AT_ONCE)
    if len(pieces) > 1:
        groups = [g for at in pieces for g in _merge(vectors, groups[at : at + _AT_ONCE], alike)]
    groups = sorted(_merge(vectors, groups, alike), key=len, reverse=True)
    least = 1 if len(vectors) < 10 else 2 if len(vectors) < 30 else 3
    large = max(sum(len(group) >= least for group in groups), speakers or 1)
    groups = _merge(vectors, groups[:large], alike, speakers, most)
    return _nearest(vectors, groups)


def _merge(
    vectors: Samples,
    groups: list[NDArray[np.int64]],
    alike: float,
    speakers: int | None = None,
    most: int | None = None,
) -> list[NDArray[np.int64]]:
    """The groups with those made one that are alike; down to ``speakers``, or ``most`` at least."""
    groups = [*groups]
    sums = np.stack([vectors[group].sum(0) for group in groups])
    counts = np.array([len(group) for group in groups], np.float32)
    near = (sums @ sums.T) / np.outer(counts, counts)
    np.fill_diagonal(near, _NEVER)
    left = len(groups)
    while left > 1:
        one, other = divmod(int(np.argmax(near)), len(groups))
        if left <= speakers if speakers else near[one, other] < alike and left <= (most or left):
            break
        sums[one] += sums[other]
        counts[one] += counts[other]
        groups[one] = np.concatenate([groups[one], groups[other]])
        groups[other] = groups[other][:0]
        left -= 1
        now = (sums @ sums[one]) / (counts * counts[one])
        now[[one, *(at for at, group in enumerate(groups) if not len(group))]] = _NEVER
        near[one], near[:, one] = now, now
        near[other] = near[:, other] = _NEVER
    return [group for group in groups if len(group)]


def _nearest(vectors: Samples, groups: list[NDArray[np.int64]]) -> list[int]:
    """To which group's mean each vector is nearest; the means follow, a few times."""
    sums = np.stack([vectors[group].sum(0) for group in groups])
    labels = np.zeros(len(vectors), np.int64)
    for _ in range(_ROUNDS):
        means = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)
        labels = (vectors @ means.T).argmax(1)
        sums = np.stack([vectors[labels == at].sum(0) for at in range(len(groups))])
    return [int(label) for label in labels]
