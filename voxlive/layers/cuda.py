"""NVIDIA's driver, run-time compiler and matrix products, as far as a step on its GPUs needs them.

A step is hundreds of small kernels, which a host sends slower than a GPU runs them. So a step is
recorded once, as a CUDA graph, and each time sent with one call. MLX cannot do that, so these steps
do without it, on memory of their own. All of a ``Gpu`` belongs to one thread.

Kernels are compiled when a shape first needs them and kept on disk, by version of the compiler,
architecture and source.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from ctypes import byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

LEAST_ARCHITECTURE = 80
"""Compute capability times ten: the first with tensor cores for bfloat16."""

_HERE = Path(__file__).parent
_SOURCES = ("half", "attention", "projection", "step")
_RUNTIME = 13
"""CUDA's major version, whose libraries are looked for."""
_WORKSPACE = 32 << 20
_NOT_READY = 600
_OVERLAP = 6
"""CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION."""
_R_32F, _R_16F, _R_16BF = 0, 2, 14
_COMPUTE_32F, _DEFAULT_ALGORITHM = 68, -1
_FULL_PRECISION_SUMS = 16
"""CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION."""


class CudaError(RuntimeError):
    """NVIDIA's driver or one of its libraries failed, or is not there."""


class _Attribute(ctypes.Structure):
    _fields_ = [("id", c_int), ("pad", c_int), ("value", c_int), ("rest", c_int * 15)]


class _LaunchConfig(ctypes.Structure):
    _fields_ = [
        ("grid", c_uint * 3),
        ("block", c_uint * 3),
        ("shared", c_uint),
        ("stream", c_void_p),
        ("attributes", c_void_p),
        ("count", c_uint),
    ]


class WeightArgument(ctypes.Structure):
    """``projection::Weight``: a matrix as it lies in memory, with scales and zeros if packed."""

    _fields_ = [("values", c_void_p), ("scales", c_void_p), ("zeros", c_void_p)]


def _library(name: str) -> ctypes.CDLL:
    """One of CUDA's libraries: loaded by MLX already, or from its packages."""
    file = f"lib{name}.so.{_RUNTIME}"
    spec = find_spec("nvidia")
    places = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    found = [path for place in places for path in place.glob(f"*/lib/{file}")]
    for path in found:
        for part in path.parent.glob(f"lib{name}-*"):  # which it looks for by name alone
            ctypes.CDLL(str(part))
    for place in (file, *map(str, found)):
        try:
            return ctypes.CDLL(place)
        except OSError:
            continue
    raise CudaError(f"{file} is not there: pip install 'voxlive[cuda{_RUNTIME}]'")


@cache
def _shared_source() -> str:
    return "".join((_HERE / f"{name}.cu").read_text() for name in _SOURCES)


@dataclass(frozen=True, slots=True)
class Kernel:
    """What to compile: parameters and body of a kernel for so many threads to a block.

    ``blocks`` of it at least are to fit on a multiprocessor, which bounds their registers; 0 leaves
    that to the compiler.
    """

    name: str
    threads: int
    parameters: str
    body: str
    blocks: int = 0

    @property
    def source(self) -> str:
        """All that the compiler needs."""
        bounds = f"{self.threads}, {self.blocks}" if self.blocks else self.threads
        return "".join((
            _shared_source(),
            f'\nextern "C" __global__ void __launch_bounds__({bounds})\n',
            f"{self.name}({self.parameters}) {{ {self.body} }}\n",
        ))  # fmt: skip


class DeviceMemory:
    """Zeroed memory of the device, which is free when nobody has it any more."""

    def __init__(self, gpu: Gpu, nbytes: int) -> None:
        pointer = c_uint64()
        gpu.call("cuMemAlloc_v2", byref(pointer), c_size_t(max(nbytes, 16)))
        self._free = gpu.driver.cuMemFree_v2
        self.pointer = int(pointer.value)
        self.nbytes = nbytes
        gpu.fill_zero(self.pointer, nbytes)

    def __del__(self) -> None:
        if pointer := getattr(self, "pointer", 0):
            self._free(c_uint64(pointer))


class Pinned:
    """Memory of the host that the device copies from and to while the host goes on."""

    def __init__(self, gpu: Gpu, nbytes: int) -> None:
        pointer = c_void_p()
        gpu.call("cuMemHostAlloc", byref(pointer), c_size_t(nbytes), c_uint(0))
        self._free = gpu.driver.cuMemFreeHost
        self.pointer = int(pointer.value or 0)
        self.bytes: NDArray[np.uint8] = np.ctypeslib.as_array(
            (ctypes.c_uint8 * nbytes).from_address(self.pointer)
        )
        self.event = Event(gpu)

    def __del__(self) -> None:
        if pointer := getattr(self, "pointer", 0):
            self._free(c_void_p(pointer))


class Event:
    """A point in the stream's work."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._event = c_void_p()
        gpu.call("cuEventCreate", byref(self._event), c_uint(2))  # without a time

    def record(self) -> None:
        """Be here: after all that was sent so far."""
        self._gpu.call("cuEventRecord", self._event, self._gpu.stream)

    def wait(self) -> None:
        """Until the device has come so far."""
        self._gpu.call("cuEventSynchronize", self._event)

    @property
    def passed(self) -> bool:
        """Whether the device has come so far, or has failed: ``wait`` tells."""
        return bool(self._gpu.driver.cuEventQuery(self._event) != _NOT_READY)

    def __del__(self) -> None:
        self._gpu.driver.cuEventDestroy_v2(self._event)


class Graph:
    """Recorded work."""

    def __init__(self, gpu: Gpu, graph: c_void_p) -> None:
        self._gpu = gpu
        self._ready = c_void_p()
        gpu.call("cuGraphInstantiateWithFlags", byref(self._ready), graph, ctypes.c_ulonglong(0))
        gpu.call("cuGraphDestroy", graph)

    def launch(self) -> None:
        """Send it."""
        self._gpu.call("cuGraphLaunch", self._ready, self._gpu.stream)

    def __del__(self) -> None:
        self._gpu.driver.cuGraphExecDestroy(self._ready)


class Gpu:
    """The first NVIDIA GPU, one stream of work on it, and the kernels compiled for it.

    ``half`` is the name of the models' 16-bit type, ``bf16`` or ``f16``.
    """

    def __init__(self, kept: Path, half: str) -> None:
        """``kept`` is where compiled kernels are kept. CudaError where there is no such GPU."""
        try:
            self.driver = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise CudaError(f"there is no driver of an NVIDIA GPU: {error}") from error
        self.half = half
        self._kept = kept
        self._functions: dict[str, c_void_p] = {}
        self._modules: list[c_void_p] = []
        self._collected: dict[str, Kernel] | None = None  # what is sent, while nothing is done
        self.call("cuInit", c_uint(0))
        device, context = c_int(), c_void_p()
        self.call("cuDeviceGet", byref(device), c_int(0))
        self.call("cuDevicePrimaryCtxRetain", byref(context), device)
        self.call("cuCtxSetCurrent", context)
        self.architecture = sum(
            scale * self._attribute(device, which) for scale, which in ((10, 75), (1, 76))
        )
        self.stream = c_void_p()
        self.call("cuStreamCreate", byref(self.stream), c_uint(1))  # apart from the null stream

    def _attribute(self, device: c_int, which: int) -> int:
        value = c_int()
        self.call("cuDeviceGetAttribute", byref(value), c_int(which), device)
        return value.value

    def call(self, name: str, *arguments: Any) -> None:
        """One of the driver's functions; CudaError where it fails."""
        if status := getattr(self.driver, name)(*arguments):
            text = c_char_p()
            self.driver.cuGetErrorString(c_int(status), byref(text))
            raise CudaError(f"{name}: {(text.value or b'unknown').decode()} ({status})")

    def memory(self, *shape: int, itemsize: int) -> DeviceMemory:
        """Zeroed memory for an array."""
        return DeviceMemory(self, int(np.prod(shape, dtype=np.int64)) * itemsize)

    def fill_zero(self, pointer: int, nbytes: int) -> None:
        """Zero a part of the device's memory."""
        self.call(
            "cuMemsetD8Async", c_uint64(pointer), ctypes.c_ubyte(0), c_size_t(nbytes), self.stream
        )

    def copy(self, to: int, start: int, nbytes: int) -> None:
        """Copy between two places of the device's memory."""
        self.call(
            "cuMemcpyDtoDAsync_v2", c_uint64(to), c_uint64(start), c_size_t(nbytes), self.stream
        )

    def upload(self, to: int, pinned: Pinned, nbytes: int) -> None:
        """Copy the first bytes of pinned memory to the device, which may not change before that."""
        self.call(
            "cuMemcpyHtoDAsync_v2", c_uint64(to), c_void_p(pinned.pointer), c_size_t(nbytes),
            self.stream,
        )  # fmt: skip

    def download(self, pinned: Pinned, start: int, nbytes: int) -> None:
        """Copy from the device to pinned memory; its event says when it is there."""
        self.call(
            "cuMemcpyDtoHAsync_v2", c_void_p(pinned.pointer), c_uint64(start), c_size_t(nbytes),
            self.stream,
        )  # fmt: skip
        pinned.event.record()

    def put(self, memory: DeviceMemory, values: NDArray[Any]) -> None:
        """Copy an array to the device and wait for it."""
        array = np.ascontiguousarray(values)
        self.put_from(memory, array.ctypes.data, array.nbytes)

    def put_from(self, memory: DeviceMemory, pointer: int, nbytes: int | None = None) -> None:
        """Copy what lies at a place of the host's memory and wait for it."""
        self.call(
            "cuMemcpyHtoDAsync_v2", c_uint64(memory.pointer), c_void_p(pointer),
            c_size_t(memory.nbytes if nbytes is None else nbytes), self.stream,
        )  # fmt: skip
        self.wait()

    def get(self, memory: DeviceMemory, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
        """Copy an array from the device."""
        array = np.empty(shape, dtype)
        self.call(
            "cuMemcpyDtoHAsync_v2", c_void_p(array.ctypes.data), c_uint64(memory.pointer),
            c_size_t(array.nbytes), self.stream,
        )  # fmt: skip
        self.wait()
        return array

    def wait(self) -> None:
        """Until all work is done."""
        self.call("cuStreamSynchronize", self.stream)

    def launch(
        self,
        kernel: Kernel,
        grid: tuple[int, int, int],
        *arguments: Any,
        overlap: bool = True,
    ) -> None:
        """Send a kernel: ``arguments`` are values of ``ctypes``, ints pointers.

        With ``overlap`` it may start before the ones before it are through (on GPUs that can, from
        compute capability 9.0 on): its source calls ``ready`` before it reads what they write.
        """
        if self._collected is not None:
            self._collected[kernel.name] = kernel
            return
        values = [c_uint64(one) if isinstance(one, int) else one for one in arguments]
        pointers = (c_void_p * len(values))(*(ctypes.addressof(one) for one in values))
        attribute = _Attribute(_OVERLAP, 0, 1)
        config = _LaunchConfig(
            grid, (kernel.threads, 1, 1), 0, self.stream, ctypes.addressof(attribute),
            int(overlap and self.architecture >= 90),
        )  # fmt: skip
        self.call("cuLaunchKernelEx", byref(config), self._function(kernel), pointers, None)

    def product(
        self, x: int, weight: int, y: int, *, rows: int, inputs: int, outputs: int, exact: bool
    ) -> None:
        """``x [rows, inputs]`` times ``weight [outputs, inputs]`` to y, float32 where ``exact``."""
        if self._collected is not None:
            return
        one, zero = c_float(1.0), c_float(0.0)
        half = _R_16BF if self.half == "bf16" else _R_16F
        status = self._blas.cublasGemmEx(
            self._handle, c_int(1), c_int(0), c_int(outputs), c_int(rows), c_int(inputs),
            byref(one), c_uint64(weight), c_int(half), c_int(inputs), c_uint64(x), c_int(half),
            c_int(inputs), byref(zero), c_uint64(y), c_int(_R_32F if exact else half),
            c_int(outputs), c_int(_COMPUTE_32F), c_int(_DEFAULT_ALGORITHM),
        )  # fmt: skip
        if status:
            raise CudaError(f"cublasGemmEx: status {status}")

    @cached_property
    def _blas(self) -> ctypes.CDLL:
        return _library("cublas")

    @cached_property
    def _handle(self) -> c_void_p:
        handle = c_void_p()
        self._workspace = self.memory(_WORKSPACE, itemsize=1)
        for status in (
            self._blas.cublasCreate_v2(byref(handle)),
            self._blas.cublasSetStream_v2(handle, self.stream),
            self._blas.cublasSetWorkspace_v2(
                handle, c_uint64(self._workspace.pointer), c_size_t(_WORKSPACE)
            ),
            self._blas.cublasSetMathMode(handle, c_int(_FULL_PRECISION_SUMS)),
        ):
            if status:
                raise CudaError(f"cuBLAS does not start: status {status}")
        return handle

    def record(self, work: Callable[[], None]) -> Graph:
        """Record what ``work`` sends instead of doing it."""
        self.compile(self._kernels_of(work))
        _ = self._handle  # cuBLAS starts before
        graph = c_void_p()
        self.call("cuStreamBeginCapture_v2", self.stream, c_int(2))  # other threads may go on
        try:
            work()
        finally:
            self.call("cuStreamEndCapture", self.stream, byref(graph))
        return Graph(self, graph)

    def compile(self, kernels: Iterable[Kernel]) -> None:
        """Have kernels ready, compiling several at a time."""
        new = [kernel for kernel in kernels if kernel.name not in self._functions]
        if not new:
            return
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for kernel, cubin in zip(new, pool.map(self._cubin, new), strict=True):
                self._load(kernel, cubin)

    def _kernels_of(self, work: Callable[[], None]) -> Iterable[Kernel]:
        """What ``work`` would send."""
        collected: dict[str, Kernel] = {}
        self._collected = collected
        try:
            work()
        finally:
            self._collected = None
        return collected.values()

    def _function(self, kernel: Kernel) -> c_void_p:
        if kernel.name not in self._functions:
            self._load(kernel, self._cubin(kernel))
        return self._functions[kernel.name]

    def _load(self, kernel: Kernel, cubin: bytes) -> None:
        module, function = c_void_p(), c_void_p()
        self.call("cuModuleLoadData", byref(module), cubin)
        self.call("cuModuleGetFunction", byref(function), module, kernel.name.encode())
        self._modules.append(module)
        self._functions[kernel.name] = function

    def _cubin(self, kernel: Kernel) -> bytes:
        """Compiled, or as it was kept. Called by several threads."""
        source = kernel.source
        known = f"{compiler_version(self._compiler)} {self.architecture} {source}"
        path = self._kept / f"{kernel.name}-{hashlib.sha256(known.encode()).hexdigest()[:24]}.cubin"
        try:
            return path.read_bytes()
        except FileNotFoundError:
            pass
        except OSError as error:
            log.debug("%s cannot be read: %s", path, error)
        cubin = compiled(self._compiler, source, self.architecture)
        keep(path, cubin)
        return cubin

    @cached_property
    def _compiler(self) -> ctypes.CDLL:
        return _library("nvrtc")


def compiler_version(compiler: ctypes.CDLL) -> str:
    """Such as 13.0."""
    major, minor = c_int(), c_int()
    compiler.nvrtcVersion(byref(major), byref(minor))
    return f"{major.value}.{minor.value}"


def compiled(compiler: ctypes.CDLL, source: str, architecture: int) -> bytes:
    """The machine code of a source; CudaError with what the compiler says."""
    program, size = c_void_p(), c_size_t()
    options = (
        b"--std=c++17",
        b"--device-as-default-execution-space",
        b"--disable-warnings",
        f"--gpu-architecture=sm_{architecture}".encode(),
    )
    create = compiler.nvrtcCreateProgram
    if status := create(byref(program), source.encode(), b"voxlive.cu", 0, None, None):
        raise CudaError(f"nvrtcCreateProgram: status {status}")
    try:
        listed = (c_char_p * len(options))(*options)
        failed = compiler.nvrtcCompileProgram(program, c_int(len(options)), listed)
        if failed:
            compiler.nvrtcGetProgramLogSize(program, byref(size))
            text = ctypes.create_string_buffer(size.value)
            compiler.nvrtcGetProgramLog(program, text)
            raise CudaError(f"a kernel does not compile: {text.value.decode(errors='replace')}")
        compiler.nvrtcGetCUBINSize(program, byref(size))
        cubin = ctypes.create_string_buffer(size.value)
        compiler.nvrtcGetCUBIN(program, cubin)
        return cubin.raw
    finally:
        compiler.nvrtcDestroyProgram(byref(program))


def keep(path: Path, cubin: bytes) -> None:
    """Write it whole or not at all; where it cannot be kept, it is compiled again next time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(cubin)
        Path(file.name).replace(path)
    except OSError as error:
        log.warning("compiled kernels cannot be kept in %s: %s", path.parent, error.strerror)
