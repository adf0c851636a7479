"""The tensor layouts in circulation: one file each, told apart by the names of their tensors."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import WeightsMismatch, listed
from .layout import Layout
from .mistral import MISTRAL
from .mlx_audio import MLX_AUDIO
from .transformers import TRANSFORMERS
from .voxmlx import VOXMLX

LAYOUTS = (MISTRAL, MLX_AUDIO, VOXMLX, TRANSFORMERS)

__all__ = ["LAYOUTS", "Layout", "recognise"]


def recognise(names: Iterable[str]) -> Layout:
    """The layout that knows most of these tensor names; raises WeightsMismatch if none does."""
    every = list(names)
    known = {layout: sum(map(layout.knows, every)) for layout in LAYOUTS}
    best = max(LAYOUTS, key=known.__getitem__)
    if not known[best]:
        raise WeightsMismatch(
            f"these are no tensors of a Voxtral Realtime model: {listed(every) or 'none at all'}"
        )
    return best
