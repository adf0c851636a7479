"""A transformer's layers on an NVIDIA GPU, in 16-bit floats: products, norms, attention, the stack.

The maths is that of ``layers.transformer``. MLX loads the weights, which are copied to memory of
their own; the kernels of ``layers/*.cu`` and cuBLAS do the rest (``layers.cuda``). A product of few
rows is one kernel with the norm, gate, bias and residual around it, since reading its weight is all
that it costs; packed weights are unpacked in its registers. Of many rows it is cuBLAS's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import c_float, c_int
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from voxlive.layers.cuda import DeviceMemory, Gpu, Kernel, WeightArgument
from voxlive.layers.rings import BLOCK, Rings
from voxlive.layers.transformer import Dense, Linear, Quantised, Side, StackShape, Weights, fuse

HALVES = {mx.bfloat16: "bf16", mx.float16: "f16"}
"""The types of weights that the kernels take, by their names there."""
_FEW = 16
"""Rows up to which a product is the project's own kernel, which reads the weight once."""
FEW_PACKED = 32
"""The same where a weight is there packed alone: cuBLAS does not take it."""
TILE = 16
"""Outputs of a block of products, and queries or keys that a warp attends at a time."""
SPAN = 64
"""Inputs that a warp multiplies at a time."""
_WARPS = ((256, 16), (512, 8), (1 << 31, 4))
"""(blocks, warps to a block below that): the fewer blocks, the more warps share their inputs."""
_MOST_SUMS = 64
"""Of a block: warps times tiles of 8 rows by 16 outputs (512 bytes each), twice where gated."""
_ATTENTION_WARPS = ((2048, 1), (512, 2), (0, 4))
"""(rows' heads and tiles, warps that share each from that on): one alone has nothing to merge."""
_ATTENTION_THREADS = 512
"""On a multiprocessor with heads of 64: with more than 128 registers a thread fewer would fit."""
_ENOUGH_WARPS = 1024
"""Warps from which the device has enough to do, so that no ring is split further."""
_LEAST_TILES = 2
"""Tiles of keys that a warp must have for a further split to pay."""
THREADS = 256
_NORM_THREADS = 128
VECTOR = 8


def owned(gpu: Gpu, array: mx.array) -> DeviceMemory:
    """A copy of an array in the device's memory."""
    with mx.stream(mx.cpu):
        array = mx.contiguous(array)
        mx.eval(array)
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    capsule = array.__dlpack__()  # NumPy has no bfloat16
    tensor = get(capsule, b"dltensor")
    memory = DeviceMemory(gpu, array.nbytes)
    gpu.put_from(memory, int(ctypes.c_uint64.from_address(tensor).value))
    return memory


@dataclass(frozen=True, slots=True)
class Matrix:
    """A linear layer's weight [outputs, inputs], and its bias, where they lie.

    A packed weight may lie there unpacked too (``dense``, else 0): for many rows.
    """

    outputs: int
    inputs: int
    bits: int
    group: int
    argument: WeightArgument
    bias: int
    dense: int
    held: tuple[DeviceMemory, ...]

    @classmethod
    def of(cls, ops: Operations, layer: Linear) -> Matrix:
        """Layers side by side that cannot be joined otherwise are joined unpacked."""
        if isinstance(layer, Side):
            parts = [p.unpacked() if isinstance(p, Quantised) else p for p in layer.parts]
            layer = fuse(parts)
        assert isinstance(layer, Dense | Quantised)
        held = [owned(ops.gpu, array) for array in layer.arrays]
        at = [memory.pointer for memory in held]
        bias = 0 if layer.bias is None else at[-1]
        outputs, columns = layer.weight.shape
        if isinstance(layer, Dense):
            argument = WeightArgument(at[0], None, None)
            return cls(outputs, columns, 16, 1, argument, bias, at[0], tuple(held))
        inputs, argument = columns * 32 // layer.bits, WeightArgument(*at[:3])
        packed = cls(outputs, inputs, layer.bits, layer.group_size, argument, bias, 0, tuple(held))
        if not ops.unpacks:
            return packed
        whole = ops.gpu.memory(outputs, inputs, itemsize=2)
        ops.unpack(packed, whole.pointer)
        return replace(packed, dense=whole.pointer, held=(*held, whole))

    @classmethod
    def convolution(cls, ops: Operations, weight: mx.array, bias: mx.array) -> Matrix:
        """``weight [out, k, in]`` on k frames side by side."""
        return cls.of(ops, Dense(weight.reshape(weight.shape[0], -1), bias))


class Scale(NamedTuple):
    """Rows of a table that multiply the feed-forward's normed input: one for each stream."""

    table: int
    of: int
    positions: int


class StepScratch:
    """Named memory for what lives within a step, as large as was asked for when it was made."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._memory: dict[str, DeviceMemory] = {}

    def __call__(self, name: str, count: int, itemsize: int = 2) -> int:
        """Where it lies; MemoryError where less was reserved."""
        memory = self._memory.get(name)
        if memory is None or memory.nbytes < count * itemsize:
            raise MemoryError(f"{name} has no room for {count} values")
        return memory.pointer

    def reserve(self, name: str, count: int, itemsize: int = 2) -> None:
        """Have room for so many values."""
        memory = self._memory.get(name)
        if memory is None or memory.nbytes < count * itemsize:
            self._memory.pop(name, None)
            self._memory[name] = self._gpu.memory(count, itemsize=itemsize)


class Operations:
    """The kernels of a step, as methods that send them."""

    def __init__(self, gpu: Gpu, *, unpacks: bool = False) -> None:
        """``unpacks`` says that packed weights are kept unpacked beside, for many rows."""
        self.gpu = gpu
        self.scratch = StepScratch(gpu)
        self.unpacks = unpacks
        self.half = f"half_pairs::{gpu.half}"

    def kernel(
        self, kind: str, key: Sequence[object], threads: int, given: str, body: str,
        blocks: int = 0,
    ) -> Kernel:  # fmt: skip
        """One of a shape, which ``key`` names; in ``body`` T is the models' 16-bit type."""
        name = "_".join(str(one) for one in ("voxlive", kind, self.gpu.half, *key))
        return Kernel(name, threads, given, f"using T = {self.half}; {body}", blocks)

    def weight(self, m: Matrix) -> str:
        """The type of a weight in kernels."""
        return f"projection::Weight<{self.half}, {m.inputs}, {m.bits}, {m.group}>"

    def each(self, values: int) -> tuple[int, int, int]:
        """A grid for eight values a thread."""
        return -(-values // (VECTOR * THREADS)), 1, 1

    def project(
        self,
        x: int,
        m: Matrix,
        y: int,
        rows: int,
        *,
        eps: float = 0.0,
        norm: int = 0,
        scale: Scale | None = None,
        gated: bool = False,
        gelu: bool = False,
        residual: int = 0,
        exact: bool = False,
    ) -> None:
        """One kernel for a few rows: norm, product, gate or bias, activation, residual."""
        outputs = m.outputs // 2 if gated else m.outputs
        tiles = next(t for t in (1, 2, 4) if rows <= 8 * t)
        blocks = outputs // TILE
        warps = next(warps for most, warps in _WARPS if blocks < most)
        # Each warp's sums stand in a block's static shared memory, of which there are 48 KiB.
        warps = min(warps, _MOST_SUMS // (tiles * (2 if gated else 1)))
        flags = [bool(f) for f in (norm, scale, gated, m.bias, gelu, residual)]
        shape = [m.inputs, outputs, m.bits, m.group, tiles, warps, 2]
        half, weight = self.half, self.weight(m)
        out = "float" if exact else half
        kernel = self.kernel(
            "project",
            [*shape, "".join("ny"[f] for f in flags), "exact" if exact else "half"],
            32 * warps,
            f"const {half}* x, const {half}* norm, const {half}* scales, const int* scale_of, "
            f"{weight} weight, const {half}* bias, const {half}* residual, {out}* y, int rows, "
            "int per_scale, float eps",
            f"projection::project<T, {', '.join(map(str, shape))}, "
            f"{', '.join(str(f).lower() for f in flags)}>(x, norm, scales, scale_of, weight, "
            "bias, residual, y, rows, per_scale, eps);",
        )
        table, of, positions = scale or (0, 0, 1)
        self.gpu.launch(
            kernel, (blocks, 1, 1), x, norm, table, of, m.argument, m.bias, residual, y,
            c_int(rows), c_int(positions), c_float(eps),
        )  # fmt: skip

    def product(self, x: int, m: Matrix, y: int, rows: int, *, exact: bool = False) -> None:
        """The product alone, for many rows."""
        weight = m.dense
        if not weight:
            weight = self.scratch("unpacked", m.outputs * m.inputs)
            self.unpack(m, weight)
        self.gpu.product(x, weight, y, rows=rows, inputs=m.inputs, outputs=m.outputs, exact=exact)

    def unpack(self, m: Matrix, dense: int) -> None:
        """All values of a packed weight, as products have them."""
        kernel = self.kernel(
            "unpack", [m.inputs, m.bits, m.group], THREADS,
            f"{self.weight(m)} weight, {self.half}* dense, int outputs",
            "projection::unpack_weight(weight, dense, outputs);",
        )  # fmt: skip
        grid = self.each(m.outputs * m.inputs)
        self.gpu.launch(kernel, grid, m.argument, dense, c_int(m.outputs))

    def sum_norm(
        self,
        x: int,
        more: int,
        bias: int,
        norm: int,
        normed: int,
        *,
        rows: int,
        dim: int,
        eps: float,
        scale: Scale | None = None,
    ) -> None:
        """``x += more + bias``, where there is more, and ``normed`` is its norm, scaled."""
        flags = [str(bool(f)).lower() for f in (more, bias, scale)]
        kernel = self.kernel(
            "norm", [dim, *(f[0] for f in flags)], _NORM_THREADS,
            f"const {self.half}* x, const {self.half}* more, const {self.half}* bias, "
            f"const {self.half}* norm, const {self.half}* scales, const int* scale_of, "
            f"{self.half}* normed, {self.half}* total, int per_scale, float eps",
            f"projection::sum_norm<T, {dim}, {_NORM_THREADS}, {', '.join(flags)}>(x, more, bias, "
            "norm, scales, scale_of, normed, total, per_scale, eps);",
        )  # fmt: skip
        table, of, positions = scale or (0, 0, 1)
        self.gpu.launch(
            kernel, (rows, 1, 1), x, more, bias, norm, table, of, normed, x, c_int(positions),
            c_float(eps),
        )  # fmt: skip

    def activate(
        self, x: int, y: int, rows: int, width: int, *, bias: int = 0, gated: bool = False,
        gelu: bool = False,
    ) -> None:  # fmt: skip
        """Gate, bias and activation behind a product of many rows."""
        flags = [str(f).lower() for f in (gated, bool(bias), gelu)]
        kernel = self.kernel(
            "activate", [f[0] for f in flags], THREADS,
            f"const {self.half}* x, const {self.half}* bias, {self.half}* y, int rows, int width",
            f"projection::activate<T, {', '.join(flags)}>(x, bias, y, rows, width);",
        )  # fmt: skip
        self.gpu.launch(kernel, self.each(rows * width), x, bias, y, c_int(rows), c_int(width))

    def linear(
        self, x: int, m: Matrix, y: int, rows: int, *, gelu: bool = False, exact: bool = False
    ) -> None:
        """A product with its bias and activation, whatever its rows."""
        if is_few(rows, m):
            self.project(x, m, y, rows, gelu=gelu, exact=exact)
            return
        self.product(x, m, y, rows, exact=exact)
        if m.bias or gelu:
            self.activate(y, y, rows, m.outputs, bias=m.bias, gelu=gelu)

    def attend(
        self,
        shape: StackShape,
        ring: int,
        qkv: int,
        pool: int,
        rows: BatchRows,
        context: int,
        bias: int = 0,
    ) -> None:
        """Rotate, write and attend; ``bias`` is what is not in ``qkv`` yet."""
        group = shape.heads // shape.kv_heads
        tiles = -(-rows.positions * group // TILE)
        units = rows.batch * tiles * shape.kv_heads
        warps = next(warps for least, warps in _ATTENTION_WARPS if units >= least)
        splits = 1
        while (
            units * splits * warps < _ENOUGH_WARPS
            and 2 * splits * warps * _LEAST_TILES * TILE <= shape.window + TILE
        ):
            splits *= 2
        sums = units * splits * 32 * (shape.head_dim // 2 + 4) if splits > 1 else 1
        kernel = self.attention(shape, ring, warps, bias=bool(bias))
        self.gpu.launch(
            kernel, (shape.kv_heads, splits, rows.batch * tiles), qkv, bias, pool,
            self.scratch("angles", rows.total * shape.head_dim, 4), rows.start, rows.blocks,
            self.scratch("tickets", units, 4), context, self.scratch("parts", sums, 4),
            c_int(rows.positions),
        )  # fmt: skip

    def attention(self, shape: StackShape, ring: int, warps: int, *, bias: bool) -> Kernel:
        """The kernel of ``attend`` whose rows' heads and tiles are each shared by some warps."""
        group, flag = shape.heads // shape.kv_heads, str(bias).lower()
        sizes = shape.head_dim, group, shape.kv_heads, shape.window, ring, BLOCK, warps
        return self.kernel(
            "attend", [*sizes, flag[0]], 32 * warps,
            f"const {self.half}* qkv, const {self.half}* bias, {self.half}* pool, "
            "const float* angles, const int* start, const int* blocks, int* tickets, "
            f"{self.half}* context, float* parts, int n",
            f"paged::step<T, {', '.join(map(str, sizes))}, {flag}>(qkv, bias, pool, angles, "
            "start, blocks, tickets, context, parts, n);",
            blocks=_ATTENTION_THREADS // (32 * warps) if shape.head_dim == SPAN else 0,
        )  # fmt: skip

    def rotary(self, head_dim: int, turn: int, rows: BatchRows) -> None:
        """The angles of a step's positions."""
        kernel = self.kernel(
            "rotary", [head_dim], THREADS,
            "const int* start, const float* turn, float* angles, int n, int rows",
            f"step::rotary<{head_dim}>(start, turn, angles, n, rows);",
        )  # fmt: skip
        count = rows.total * head_dim // 2
        self.gpu.launch(
            kernel, (-(-count // THREADS), 1, 1), rows.start, turn,
            self.scratch("angles", rows.total * head_dim, 4), c_int(rows.positions),
            c_int(rows.total), overlap=False,
        )  # fmt: skip


def is_few(rows: int, m: Matrix) -> bool:
    """Whether a product of so many rows is one kernel of the project's."""
    return rows <= (_FEW if m.dense else FEW_PACKED)


class BatchRows(NamedTuple):
    """A batch: ``positions`` new ones in each of ``batch`` rows, and where their rings lie."""

    batch: int
    positions: int
    start: int
    blocks: int

    @property
    def total(self) -> int:
        """All new positions."""
        return self.batch * self.positions


class CudaRings(Rings):
    """Rings whose pools are memory of a ``Gpu``."""

    pools: list[DeviceMemory]  # type: ignore[assignment]

    def __init__(
        self, ops: Operations, shape: StackShape, *, chunk: int, slots: int, dtype: mx.Dtype
    ) -> None:
        self.gpu = ops.gpu
        self._ops = ops
        self.generation = 0
        super().__init__(
            layers=shape.layers,
            kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            rope_theta=shape.rope_theta,
            window=shape.window,
            chunk=chunk,
            slots=slots,
            block=BLOCK,
            dtype=dtype,
        )

    def rows(self, slots: Sequence[int], n: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Make room for n positions in each of ``slots``: first ones [B], blocks [B, per_ring]."""
        at = np.asarray(slots, np.int64)
        self._make_room(at, n)
        return self._position[at], self._table[at]

    def count(self, slots: Sequence[int], n: int) -> None:
        """Count n positions that a step writes in each of ``slots``."""
        self._position[list(slots)] += n

    def _new_pools(self) -> list[Any]:
        count = self._size * self.block
        pools = [
            self.gpu.memory(count, *self._entry, itemsize=self._dtype.size)
            for _ in range(self._layers)
        ]
        self._point_to(pools)
        return pools

    def _point_to(self, pools: list[DeviceMemory]) -> None:
        self._pointers = self.gpu.memory(len(pools), itemsize=8)
        self.gpu.put(self._pointers, np.array([pool.pointer for pool in pools], np.uint64))
        self.generation += 1

    def _zero(self, blocks: NDArray[np.int32]) -> None:
        count = self.block_nbytes // self._layers // 16
        kernel = self._ops.kernel(
            "scrub", [], THREADS, "uint4* const* pools, const int* blocks, int count",
            "step::scrub(pools, blocks, count);",
        )  # fmt: skip
        self._on_blocks(kernel, blocks, c_int(count))

    def _turn_keys(self, blocks: NDArray[np.int32], angle: NDArray[np.float64]) -> None:
        _, kv_heads, head_dim = self._entry
        kernel = self._ops.kernel(
            "turn", [head_dim, kv_heads, self.block], THREADS,
            "uint4* const* pools, const int* blocks, const float* angles",
            f"step::turn_keys<T, {head_dim}, {kv_heads}, {self.block}>"
            "(pools, blocks, angles);",
        )  # fmt: skip
        pairs = np.stack([np.cos(angle), np.sin(angle)], axis=-1).astype(np.float32)
        angles = self.gpu.memory(pairs.size, itemsize=4)
        self.gpu.put(angles, pairs)
        self._on_blocks(kernel, blocks, angles.pointer)

    def _on_blocks(self, kernel: Kernel, blocks: NDArray[np.int32], argument: Any) -> None:
        if not len(blocks):
            return
        held = self.gpu.memory(len(blocks), itemsize=4)
        self.gpu.put(held, blocks.astype(np.int32))
        grid = len(blocks), self._layers, 1
        self.gpu.launch(kernel, grid, self._pointers.pointer, held.pointer, argument, overlap=False)
        self.gpu.wait()

    def _resize(self, blocks: int) -> None:
        for index, pool in enumerate(self.pools):
            resized = self.gpu.memory(blocks * self.block, *self._entry, itemsize=self._dtype.size)
            self.gpu.copy(resized.pointer, pool.pointer, min(pool.nbytes, resized.nbytes))
            self.gpu.wait()
            self.pools[index] = resized
            del pool
        self._size = blocks
        self._point_to(self.pools)


@dataclass(frozen=True, slots=True)
class _CudaLayer:
    attn_norm: DeviceMemory
    qkv: Matrix
    o: Matrix
    ffn_norm: DeviceMemory
    gate_up: Matrix
    down: Matrix


class CudaStack:
    """See ``layers.transformer.Stack``; a step is sent, and what it gives is in scratch memory."""

    def __init__(
        self, ops: Operations, weights: Weights, name: str, shape: StackShape, *, chunk: int,
        slots: int,
    ) -> None:  # fmt: skip
        self.shape = shape
        self._ops = ops
        self._layers = [
            _take_layer(ops, weights, f"{name}.layers.{i}") for i in range(shape.layers)
        ]
        self._norm = owned(ops.gpu, weights.take(f"{name}.norm.weight"))
        self.rings = CudaRings(ops, shape, chunk=chunk, slots=slots, dtype=weights.dtype)
        pairs = np.arange(0, shape.head_dim, 2, dtype=np.float64) / shape.head_dim
        self._turn = ops.gpu.memory(shape.head_dim // 2, itemsize=4)
        ops.gpu.put(self._turn, (shape.rope_theta**-pairs).astype(np.float32))
        first = self._layers[0]
        self.dim, self._ffn = first.o.outputs, first.down.inputs
        self._wide = first.qkv.outputs
        self._context = first.o.inputs

    def prepare(self, rows: int, *others: Matrix) -> None:
        """Be ready for steps of so many positions in all, and for ``others``' weights."""
        s, shape = self._ops.scratch, self.shape
        for name, width in (
            ("x", self.dim), ("more", self.dim), ("normed", self.dim), ("qkv", self._wide),
            ("context", self._context), ("gated", self._ffn), ("gates", 2 * self._ffn),
        ):  # fmt: skip
            s.reserve(name, rows * width)
        group = shape.heads // shape.kv_heads
        s.reserve("angles", rows * shape.head_dim, 4)
        s.reserve("tickets", rows * max(1, group // TILE + 1) * shape.kv_heads, 4)
        s.reserve("parts", 2 * _ENOUGH_WARPS * 32 * (shape.head_dim // 2 + 4), 4)
        packed = [m for m in (*self._matrices, *others) if not m.dense]
        self.compile()
        s.reserve("unpacked", max((m.outputs * m.inputs for m in packed), default=1))

    def compile(self) -> None:
        """Have all kernels of attention ready: which is used depends on more than the batch."""
        biased = bool(self._layers[0].qkv.bias)
        self._ops.gpu.compile(
            self._ops.attention(self.shape, self.rings.ring, warps, bias=bias)
            for _, warps in _ATTENTION_WARPS
            for bias in ({False, biased})
        )

    @property
    def _matrices(self) -> list[Matrix]:
        return [
            m for layer in self._layers for m in (layer.qkv, layer.o, layer.gate_up, layer.down)
        ]

    def run(self, rows: BatchRows, scale: Callable[[int], Scale] | None) -> int:
        """From ``x`` in scratch memory to its normed hidden states, whose place is returned.

        ``scale`` gives each layer's.
        """
        ops, s, eps, count = self._ops, self._ops.scratch, self.shape.norm_eps, rows.total
        x, more = s("x", count * self.dim), s("more", count * self.dim)
        normed = s("normed", count * self.dim)
        qkv, context = s("qkv", count * self._wide), s("context", count * self._context)
        gated, gates = s("gated", count * self._ffn), s("gates", count * 2 * self._ffn)
        ops.rotary(self.shape.head_dim, self._turn.pointer, rows)
        few = is_few(count, self._layers[0].qkv)
        waiting = 0  # a sum that is not in x yet, and the bias that belongs to it
        bias = 0
        for index, layer in enumerate(self._layers):
            scaled = scale(index) if scale else None
            pool = self.rings.pools[index].pointer
            if few:
                ops.project(x, layer.qkv, qkv, count, norm=layer.attn_norm.pointer, eps=eps)
                ops.attend(self.shape, self.rings.ring, qkv, pool, rows, context)
                ops.project(context, layer.o, more, count, residual=x)
                ops.project(
                    more, layer.gate_up, gated, count, norm=layer.ffn_norm.pointer, eps=eps,
                    scale=scaled, gated=True,
                )  # fmt: skip
                ops.project(gated, layer.down, x, count, residual=more)
                continue
            ops.sum_norm(
                x, waiting, bias, layer.attn_norm.pointer, normed, rows=count, dim=self.dim, eps=eps
            )
            ops.product(normed, layer.qkv, qkv, count)
            ops.attend(self.shape, self.rings.ring, qkv, pool, rows, context, layer.qkv.bias)
            ops.product(context, layer.o, more, count)
            ops.sum_norm(
                x,
                more,
                layer.o.bias,
                layer.ffn_norm.pointer,
                normed,
                scale=scaled,
                rows=count,
                dim=self.dim,
                eps=eps,
            )
            ops.product(normed, layer.gate_up, gates, count)
            ops.activate(gates, gated, count, self._ffn, gated=True)
            ops.product(gated, layer.down, more, count)
            waiting, bias = more, layer.down.bias
        ops.sum_norm(
            x, waiting, bias, self._norm.pointer, normed, rows=count, dim=self.dim, eps=eps
        )
        return normed


def _take_layer(ops: Operations, weights: Weights, name: str) -> _CudaLayer:
    gpu = ops.gpu
    return _CudaLayer(
        attn_norm=owned(gpu, weights.take(f"{name}.attn_norm.weight")),
        qkv=Matrix.of(ops, weights.fused(f"{name}.q", f"{name}.k", f"{name}.v")),
        o=Matrix.of(ops, weights.linear(f"{name}.o")),
        ffn_norm=owned(gpu, weights.take(f"{name}.ffn_norm.weight")),
        gate_up=Matrix.of(ops, weights.fused(f"{name}.gate", f"{name}.up")),
        down=Matrix.of(ops, weights.linear(f"{name}.down")),
    )
