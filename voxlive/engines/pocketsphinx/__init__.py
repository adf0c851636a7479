"""The built-in engine: PocketSphinx and the US English model in its package.

Workers import this package too, so it names nothing heavy before ``load``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voxlive.checkpoints.local_model import LocalModel
    from voxlive.engines.contract import Engine, EngineOptions


def load(model: LocalModel, options: EngineOptions) -> Engine:
    """The engine with all its workers warm. Blocks.

    Raises UnsupportedOption for what it cannot do, EngineError when a worker does not start.
    """
    from voxlive.engines.pocketsphinx.engine import PocketSphinxEngine, default_capacity
    from voxlive.errors import UnsupportedOption

    if options.device not in (None, "cpu"):
        raise UnsupportedOption(
            f"{model.name} runs on the CPU only: leave out device {options.device}"
        )
    if options.quantize is not None:
        raise UnsupportedOption(f"{model.name} has no weights to quantize: leave out quantize")
    if options.delay_ms is not None:
        raise UnsupportedOption(f"{model.name} has no delay to set: leave out delay_ms")
    options.require_no_rules(model.name)
    capacity = default_capacity() if options.max_sessions is None else options.max_sessions
    return PocketSphinxEngine(capacity, options.deadline_s)
