"""mlx-audio's speech models behind the recognisers' interface: what each is, how it is called.

Nothing is loaded before ``load``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voxlive.checkpoints.local_model import LocalModel
    from voxlive.recognisers.contract import LoadingOptions, Recogniser


def load(local: LocalModel, options: LoadingOptions) -> Recogniser:
    """Load a checkpoint of one of the families. Blocks; raises RequestRefused."""
    from voxlive.recognisers.mlx_audio.recogniser import load_family

    return load_family(local, options)
