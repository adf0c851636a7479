"""Voice profiles: speakers whom a later session knows again. Pure.

A profile is the mean of a speaker's vectors, of length 1, with a name. A speaker of whom enough has
been heard is the one whose profile is near, where none of somebody else's is nearly as near.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from voxlive.values import Samples

LEAST_VECTORS = 4
"""Of a speaker, before they are remembered or recognised: some 4 s of speech."""

_CLEAR = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class VoiceProfile:
    """A remembered voice: ``vector`` is float32 [width], of length 1."""

    id: str
    name: str
    vector: Samples


def nearest_profile(
    vector: Samples, profiles: Sequence[VoiceProfile], taken: Collection[str], same: float
) -> VoiceProfile | None:
    """Whose voice a mean vector of length 1 is; None where none is near, or two are.

    ``taken``: the names of other speakers of the session. ``same``: the cosine from which on two
    means are one voice's (``Likeness``).
    """
    same_width = [one for one in profiles if one.vector.shape == vector.shape]
    near = sorted(((float(one.vector @ vector), one.id, one) for one in same_width), reverse=True)
    if not near or near[0][0] < same or near[0][2].name in taken:
        return None
    if len(near) > 1 and near[0][0] - near[1][0] < _CLEAR:
        return None
    return near[0][2]
