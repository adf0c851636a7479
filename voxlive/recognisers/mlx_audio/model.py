"""A loaded model of a family and the thread that owns it; what loading takes of mlx-audio.

For processes that serve such a model alone: others have no MLX.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import mlx.core as mx
import numpy as np
import soxr

from voxlive.checkpoints.contents import EXTRACTORS, TOKENIZER_CONFIG
from voxlive.checkpoints.plan import surplus_layers
from voxlive.errors import RequestRefused, listed, mib
from voxlive.recognisers.mlx_audio.family import (
    CallOptions,
    FamilyAdapter,
    FamilyRequest,
    Model,
    language_name,
)
from voxlive.values import SAMPLE_RATE, CodedWarning

if TYPE_CHECKING:
    from voxlive.checkpoints.local_model import LocalModel
    from voxlive.recognisers.contract import Recognition
    from voxlive.values import Samples

_P = ParamSpec("_P")
_T = TypeVar("_T")
_LONGEST_REASON = 600
_LEAST = SAMPLE_RATE  # a model's first layers need some audio: less is followed by silence
_MOST_CACHED = 1 << 30  # bytes that MLX may keep between two calls


def check_gpu_memory(name: str, needed_bytes: int, device: str | None) -> None:
    """Raises RequestRefused 507 if a model needs more than MLX may take on a GPU.

    A CPU's memory is checked before a process is started.
    """
    if device == "cpu" or not mx.is_available(mx.gpu):
        return
    info = mx.device_info()
    limit = int(info.get("max_recommended_working_set_size", mx.get_memory_limit()))
    if needed_bytes > limit:
        raise RequestRefused(
            "insufficient_memory",
            f"{name} needs {mib(needed_bytes)} and MLX may use {mib(limit)} of this "
            "GPU: choose a smaller or a quantised model",
            "model",
        )


def load_with_mlx_audio(family: FamilyAdapter, folder: Path) -> Model:
    """Load on the calling thread. Raises whatever mlx-audio does for files that do not fit.

    The family is given and names of folders are kept out: mlx-audio would otherwise go by them,
    and load another family's class with random weights.
    """
    from mlx_audio.stt import load

    family.before_load()
    model = load(folder, model_type=family.model_type, model_name_parts=[], strict=True)
    family.after_load(model, folder)
    return model


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
        self._pool.submit(mx.clear_streams)
        self._pool.shutdown()


class FamilyModel:
    """A model of a family on its thread. Calls may come from any thread, one is done at a time."""

    def __init__(
        self,
        family: FamilyAdapter,
        model: Model,
        thread: MlxThread,
        warnings: tuple[CodedWarning, ...],
    ) -> None:
        self.family = family
        self.model = model
        self.warnings = warnings
        self._thread = thread

    @classmethod
    def load(
        cls,
        local: LocalModel,
        family: FamilyAdapter,
        device: str | None,
        load: Callable[[FamilyAdapter, Path], Model] = load_with_mlx_audio,
    ) -> FamilyModel:
        """What ``load`` makes of the model's folder, on a thread of its own. Blocks.

        Raises RequestRefused for files that do not make up this model, for packages that are not
        installed and a device that is not here.
        """
        with ExitStack() as undo:
            thread = MlxThread(family.model_type)
            undo.callback(thread.close)
            with _ignoring_surplus_tensors() as ignored:
                model = thread.run(_load_checked, local, family, device, load)
            undo.pop_all()
        return cls(family, model, thread, _surplus_warnings(ignored))

    def request(
        self, samples: Samples, language: str | None, options: CallOptions, left: int | None
    ) -> FamilyRequest:
        """A call for audio, float32 mono [n] at 16 kHz, that may write ``left`` tokens (None: any).

        Raises RequestRefused for a language that the model does not know.
        """
        family = self.family
        seconds = len(samples) / SAMPLE_RATE
        if len(samples) < _LEAST:
            samples = np.pad(samples, (0, _LEAST - len(samples)))
        if family.rate != SAMPLE_RATE:
            samples = soxr.resample(samples, SAMPLE_RATE, family.rate)
        limit = family.tokens.limit(seconds, left) if family.tokens else None
        name = language_name(family, self.model, language)
        return FamilyRequest(options, samples, seconds, language, name, limit)

    def recognise(self, request: FamilyRequest) -> Recognition:
        """Make a call and wait for what comes of it."""
        return self._thread.run(self._recognise, request)

    def likeliest(self, request: FamilyRequest) -> tuple[tuple[str, float], ...] | None:
        """Languages of a call's audio with probabilities; None if the family does not give them."""
        find = self.family.languages.likeliest
        return self._thread.run(find, self.model, request) if find else None

    def free_memory(self) -> None:
        """Clear MLX's cache: another model may need the memory."""
        self._thread.run(mx.clear_cache)

    def close(self) -> None:
        """End the thread after the call at hand."""
        self._thread.close()

    def _recognise(self, request: FamilyRequest) -> Recognition:
        family = self.family
        output = family.call(self.model, family.audio(request), family.arguments(request))
        if mx.get_cache_memory() > _MOST_CACHED:
            mx.clear_cache()
        return family.parse_output(output, request)


def _load_checked(
    local: LocalModel,
    family: FamilyAdapter,
    device: str | None,
    load: Callable[[FamilyAdapter, Path], Model],
) -> Model:
    if local.folder is None:
        raise RequestRefused("model_not_found", f"{local.name} has no files", "model")
    _refuse_custom_code(local)
    _use_device(device)
    try:
        return load(family, local.folder)
    except ImportError as error:
        raise RequestRefused("missing_dependency", f"{local.name}: {error}", "model") from error
    except (ValueError, KeyError, TypeError, OSError) as error:
        # What the loaders raise for configs and weights that do not fit: they have no own types.
        reason = str(error).strip()[:_LONGEST_REASON]
        message = f"{local.name} cannot be loaded as {family.model_type}: {reason}"
        raise RequestRefused("unusable_model", message, "model") from error


@contextmanager
def _ignoring_surplus_tensors() -> Iterator[list[str]]:
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


def _surplus_warnings(names: Sequence[str]) -> tuple[CodedWarning, ...]:
    """The warning that every answer of such a model carries."""
    if not names:
        return ()
    message = f"the model has no place for these tensors of its files: {listed(names)}"
    return (CodedWarning("surplus_tensors", message),)


def _refuse_custom_code(local: LocalModel) -> None:
    """Some tokenizers and processors would be loaded with the checkpoint's own Python files."""
    contents = local.read()
    for name in (TOKENIZER_CONFIG, *EXTRACTORS):
        if name in contents.documents and contents.document(name).data.get("auto_map"):
            raise RequestRefused(
                "unusable_model",
                f"the tokenizer of {local.name} is Python code of its own, which is not run here: "
                f"choose a conversion without auto_map in {name}",
                "model",
            )


def _use_device(device: str | None) -> None:
    if device == "cpu":
        mx.set_default_device(mx.cpu)
    elif device == "gpu" and not mx.is_available(mx.gpu):
        raise RequestRefused(
            "missing_dependency",
            "MLX finds no GPU here: on a Mac it needs Apple silicon, elsewhere an NVIDIA GPU and "
            "the extra voxlive[cuda13]; or choose the CPU",
            "device",
        )
    if mx.default_device() == mx.Device(mx.cpu):
        # Each of the families' small kernels would take a C++ compiler seconds at its first use.
        mx.disable_compile()
