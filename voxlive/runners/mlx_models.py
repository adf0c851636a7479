"""What the runners of MLX models share: the thread that owns a model, its device, its memory.

For a runner's process alone: others have no MLX.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import mlx.core as mx

from voxlive.checkpoints.contents import EXTRACTORS, TOKENIZER_CONFIG
from voxlive.checkpoints.plan import surplus_layers
from voxlive.errors import RequestRefused, listed
from voxlive.runners.contract import RunnerSpec
from voxlive.runners.memory import mib
from voxlive.values import CodedWarning

_P = ParamSpec("_P")
_T = TypeVar("_T")
_LONGEST_REASON = 600


def check_gpu_memory(spec: RunnerSpec) -> None:
    """Raises RequestRefused 507 if a model needs more than MLX may take on a GPU.

    A CPU's memory is checked before the process is started (``memory``).
    """
    if spec.device == "cpu" or not mx.is_available(mx.gpu):
        return
    info = mx.device_info()
    limit = int(info.get("max_recommended_working_set_size", mx.get_memory_limit()))
    if spec.needed_bytes > limit:
        raise RequestRefused(
            "insufficient_memory",
            f"{spec.model} needs {mib(spec.needed_bytes)} and MLX may use {mib(limit)} of this "
            "GPU: choose a smaller or a quantised model",
            "model",
        )


class MlxThread:
    """The one thread that loads a model and computes with it: MLX's streams belong to a thread."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    def run(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run ``work`` on the thread and wait for its result."""
        return self._pool.submit(work, *args, **kwargs).result()

    def close(self) -> None:
        """End the thread after the work at hand.

        A thread that ended with streams of its own would make MLX abort the process at its end.
        """
        self._pool.submit(_clear_streams)
        self._pool.shutdown()


def load_checked(spec: RunnerSpec, load: Callable[[Path], _T]) -> _T:
    """What ``load`` makes of the spec's folder, on the calling thread and the device asked for.

    Raises RequestRefused for options that such models do not have, files that do not make up this
    model, and packages that are not installed.
    """
    folder = _folder(spec)
    _refuse_custom_code(spec)
    _use_device(spec)
    try:
        return load(folder)
    except ImportError as error:
        raise RequestRefused("missing_dependency", f"{spec.model}: {error}", "model") from error
    except (ValueError, KeyError, TypeError, OSError) as error:
        # What the loaders raise for configs and weights that do not fit: they have no own types.
        reason = str(error).strip()[:_LONGEST_REASON]
        message = f"{spec.model} cannot be loaded as {spec.family}: {reason}"
        raise RequestRefused("unusable_model", message, "model") from error


@contextmanager
def ignoring_surplus_tensors() -> Iterator[list[str]]:
    """Load in here without the tensors that the model has no place for; yields their names.

    mlx-audio and mlx-vlm load either strictly, where a surplus tensor is an error, or so that
    missing ones keep their random values. Strict loading in here still refuses missing ones.
    """
    nn: Any = import_module("mlx.nn")
    tree_flatten = import_module("mlx.utils").tree_flatten
    original = nn.Module.load_weights
    ignored: list[str] = []

    def load_weights(self: Any, weights: Any, strict: bool = True) -> Any:
        if strict and not isinstance(weights, str):
            parameters = {name for name, _ in tree_flatten(self.parameters())}
            unknown = {name for name, _ in weights} - parameters
            # More layers than the config has make another model of it: that stays an error.
            unknown -= set(surplus_layers(unknown, parameters))
            ignored.extend(sorted(unknown))
            weights = [(name, array) for name, array in weights if name not in unknown]
        return original(self, weights, strict)

    nn.Module.load_weights = load_weights
    try:
        yield ignored
    finally:
        nn.Module.load_weights = original


def surplus_warnings(names: Sequence[str]) -> tuple[CodedWarning, ...]:
    """The warning that every answer of such a model carries."""
    if not names:
        return ()
    message = f"the model has no place for these tensors of its files: {listed(names)}"
    return (CodedWarning("surplus_tensors", message),)


def free_memory() -> None:
    """Clear MLX's cache: another model may need the memory."""
    mx.clear_cache()


def _clear_streams() -> None:
    mx.clear_streams()


def _folder(spec: RunnerSpec) -> Path:
    folder = spec.local.folder
    if folder is None:
        raise RequestRefused("model_not_found", f"{spec.model} has no files", "model")
    if spec.quantize is not None or spec.delay_ms is not None:
        field = "quantize" if spec.quantize is not None else "delay_ms"
        message = f"{spec.model} runs as it was stored: leave out {field}"
        raise RequestRefused("unsupported_option", message, field)
    return folder


def _refuse_custom_code(spec: RunnerSpec) -> None:
    """Some tokenizers and processors would be loaded with the checkpoint's own Python files."""
    contents = spec.local.read()
    for name in (TOKENIZER_CONFIG, *EXTRACTORS):
        if name in contents.documents and contents.document(name).data.get("auto_map"):
            raise RequestRefused(
                "unusable_model",
                f"the tokenizer of {spec.model} is Python code of its own, which is not run here: "
                f"choose a conversion without auto_map in {name}",
                "model",
            )


def _use_device(spec: RunnerSpec) -> None:
    if spec.device == "cpu":
        mx.set_default_device(mx.cpu)
    elif spec.device == "gpu" and not mx.is_available(mx.gpu):
        raise RequestRefused(
            "missing_dependency",
            "MLX finds no GPU here: on a Mac it needs Apple silicon, elsewhere an NVIDIA GPU and "
            "the extra voxlive[cuda13]; or choose the CPU",
            "device",
        )
