"""What MLX says of its device's memory; asked in runners' processes, since others have no MLX."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx

from .contract import Refusal
from .memory import mib

if TYPE_CHECKING:
    from .contract import RunnerSpec


def check_room(spec: RunnerSpec) -> None:
    """Raises Refusal 507 if a model needs more than MLX may take on a GPU.

    A CPU's memory is judged by the gate before the process is started.
    """
    if spec.device == "cpu" or not mx.is_available(mx.gpu):
        return
    info = mx.device_info()
    limit = int(info.get("max_recommended_working_set_size", mx.get_memory_limit()))
    if spec.needed_bytes > limit:
        raise Refusal(
            507,
            "insufficient_memory",
            f"{spec.model} needs {mib(spec.needed_bytes)} and MLX may use {mib(limit)} of this "
            "GPU: choose a smaller or a quantised model",
            "model",
        )
