// Products with a weight for a few rows of x, where reading the weight is all there is to it. What
// stands before and after in a layer is done on the way: RMSNorm (its weight on x, its factor on
// the sums), the gate, bias, activation and residual. Weights may be packed: affine values of 4 or
// 8 bits in groups of GROUP inputs, as MLX has them, which are unpacked in registers.

namespace projection {

using namespace half_pairs;

// Eight values times the norm's weight, and times ``scale`` where there is one; their squares,
// before that, are added to ``squares``.
template <typename T, bool SCALE>
__device__ inline uint4 weighted(uint4 values, const T* norm, const T* scale, float& squares) {
  uint32_t* words = reinterpret_cast<uint32_t*>(&values);
  const uint4 by = load(norm), more = SCALE ? load(scale) : by;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float2 x = unpack<T>(words[i]), w = unpack<T>(reinterpret_cast<const uint32_t*>(&by)[i]);
    squares += x.x * x.x + x.y * x.y;
    if (SCALE) {
      float2 s = unpack<T>(reinterpret_cast<const uint32_t*>(&more)[i]);
      w.x *= s.x;
      w.y *= s.y;
    }
    words[i] = pack<T>(x.x * w.x, x.y * w.y);
  }
  return values;
}

// A matrix [outputs, INPUTS] as it is stored, read by a lane in chunks of up to 16 bytes. Eight
// values of a chunk come as pairs in an order of their own, which costs the least to unpack: what
// they are multiplied with is put in the same ``order``.
template <typename T, int INPUTS, int BITS, int GROUP>
struct Weight {
  static constexpr int CHUNK = BITS == 16 ? 8 : BITS == 8 || INPUTS % 128 ? 16 : 32;  // values
  static constexpr int LOADS = BITS == 16 ? 2 : 1, EIGHTS = CHUNK / 8;
  static constexpr int SPAN = 4 * CHUNK * LOADS;  // of four lanes
  struct Chunk {
    uint32_t words[CHUNK * BITS / 32];
    uint32_t scale, zero;
  };
  const uint32_t* values;
  const T* scales;  // [outputs, INPUTS / GROUP], with the zeros where the values are packed
  const T* zeros;

  // Where in a span a lane's eight values of a load begin.
  static __device__ int column(int c, int load, int eight) {
    return BITS == 16 ? 32 * load + 8 * c : CHUNK * c + 8 * eight;
  }

  __device__ Chunk fetch(size_t row, int column) const {
    const uint32_t* at = values + (row * INPUTS + column) * BITS / 32;
    Chunk chunk;
    if constexpr (CHUNK * BITS == 128) {
      *reinterpret_cast<uint4*>(chunk.words) = __ldcs(reinterpret_cast<const uint4*>(at));
    } else {
      *reinterpret_cast<uint2*>(chunk.words) = __ldcs(reinterpret_cast<const uint2*>(at));
    }
    if constexpr (BITS != 16) {
      const size_t group = row * (INPUTS / GROUP) + column / GROUP;
      chunk.scale = scales[group].bits * 0x10001u;
      chunk.zero = zeros[group].bits * 0x10001u;
    }
    return chunk;
  }

  static __device__ uint4 eight(const Chunk& chunk, int which) {
    uint32_t pairs[4];
    if constexpr (BITS == 16) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        pairs[i] = chunk.words[i];
      }
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        uint32_t pair;
        if constexpr (BITS == 4) {  // (0, 4), (1, 5), (2, 6), (3, 7)
          pair = whole<T>(chunk.words[which] >> (4 * i) & 0x000f000fu);
        } else {  // (0, 2), (1, 3), (4, 6), (5, 7)
          const uint32_t word = chunk.words[2 * which + i / 2] >> (8 * (i % 2));
          pair = fma<T>(
              whole<T>(word >> 4 & 0x000f000fu), sixteen<T>(), whole<T>(word & 0x000f000fu));
        }
        pairs[i] = fma<T>(pair, chunk.scale, chunk.zero);
      }
    }
    return {pairs[0], pairs[1], pairs[2], pairs[3]};
  }

  // Eight values one after another in the order of ``eight``.
  static __device__ uint4 ordered(uint4 x) {
    if constexpr (BITS == 4) {
      return {__byte_perm(x.x, x.z, 0x5410), __byte_perm(x.x, x.z, 0x7632),
              __byte_perm(x.y, x.w, 0x5410), __byte_perm(x.y, x.w, 0x7632)};
    } else if constexpr (BITS == 8) {
      return {__byte_perm(x.x, x.y, 0x5410), __byte_perm(x.x, x.y, 0x7632),
              __byte_perm(x.z, x.w, 0x5410), __byte_perm(x.z, x.w, 0x7632)};
    } else {
      return x;
    }
  }

  // What ``eight`` gives, one after another.
  static __device__ uint4 natural(uint4 x) {
    if constexpr (BITS == 4) {
      return {__byte_perm(x.x, x.y, 0x5410), __byte_perm(x.z, x.w, 0x5410),
              __byte_perm(x.x, x.y, 0x7632), __byte_perm(x.z, x.w, 0x7632)};
    } else {
      return ordered(x);
    }
  }

  // Eight values from any multiple of eight on.
  __device__ uint4 values_at(size_t row, int column) const {
    const int first = column / CHUNK * CHUNK, which = (column - first) / 8;
    const Chunk chunk = fetch(row, first);
    uint4 found = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < EIGHTS; ++i) {
      if (i == which) {
        found = natural(eight(chunk, i));
      }
    }
    return found;
  }
};

// A block makes 16 outputs of every row; its warps share the inputs, and have asked for their first
// AHEAD parts of the weight before x is there. ``TILES`` of 8 rows.
template <typename T, int INPUTS, int OUTPUTS, int BITS, int GROUP, int TILES, int WARPS, int AHEAD,
          bool NORM, bool SCALE, bool GATED, bool BIAS, bool GELU, bool RESIDUAL, typename Y>
__device__ inline void project(
    const T* x,            // [rows, INPUTS]
    const T* norm,         // [INPUTS]
    const T* scales,       // [many, INPUTS], of which each row takes ...
    const int* scale_of,   // [rows / per_scale], ... this one
    Weight<T, INPUTS, BITS, GROUP> weight,  // [OUTPUTS], gated: [2 OUTPUTS], the gates first
    const T* bias,         // [OUTPUTS]
    const T* residual,     // [rows, OUTPUTS]
    Y* y,                  // [rows, OUTPUTS]
    int rows,
    int per_scale,
    float eps) {
  using Stored = Weight<T, INPUTS, BITS, GROUP>;
  constexpr int PARTS = GATED ? 2 : 1, STRIDE = WARPS * Stored::SPAN;
  constexpr int TURNS = (INPUTS + STRIDE - 1) / STRIDE;
  __shared__ float sums[WARPS][PARTS][TILES * 8][16];
  __shared__ float squares[WARPS][TILES * 8];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, c = lane % 4;
  const int first = blockIdx.x * 16;

  float acc[PARTS][TILES][4] = {}, square[TILES] = {};
  typename Stored::Chunk w[AHEAD][PARTS][2][Stored::LOADS];
  auto fetch = [&](auto& to, int at) {
    if (INPUTS % STRIDE && at >= INPUTS) {
      return;
    }
#pragma unroll
    for (int p = 0; p < PARTS; ++p) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int l = 0; l < Stored::LOADS; ++l) {
          to[p][half][l] =
              weight.fetch(p * OUTPUTS + first + g + 8 * half, at + Stored::column(c, l, 0));
        }
      }
    }
  };

  after();
#pragma unroll
  for (int a = 0; a < AHEAD && a < TURNS; ++a) {
    fetch(w[a], warp * Stored::SPAN + a * STRIDE);
  }
  ready();
  const T* scale[TILES];
#pragma unroll
  for (int t = 0; t < TILES; ++t) {
    const int row = 8 * t + g;
    scale[t] = SCALE && row < rows ? scales + scale_of[row / per_scale] * INPUTS : norm;
  }
#pragma unroll
  for (int turn = 0; turn < TURNS; ++turn) {
    const int at = warp * Stored::SPAN + turn * STRIDE;
    if (INPUTS % STRIDE && at >= INPUTS) {
      break;
    }
    auto& now = w[turn % AHEAD];
#pragma unroll
    for (int i = 0; i < Stored::LOADS * Stored::EIGHTS; ++i) {
      const int l = i / Stored::EIGHTS, e = i % Stored::EIGHTS;
      const int column = at + Stored::column(c, l, e);
      uint4 a[PARTS], b[PARTS];
#pragma unroll
      for (int p = 0; p < PARTS; ++p) {
        a[p] = Stored::eight(now[p][0][l], e);
        b[p] = Stored::eight(now[p][1][l], e);
      }
#pragma unroll
      for (int t = 0; t < TILES; ++t) {
        const int row = 8 * t + g;
        uint4 v = {0, 0, 0, 0};
        if (row < rows) {
          v = load(x + row * INPUTS + column);
          if (NORM) {
            v = weighted<T, SCALE>(v, norm + column, scale[t] + column, square[t]);
          }
          v = Stored::ordered(v);
        }
#pragma unroll
        for (int p = 0; p < PARTS; ++p) {
          mma<T>(acc[p][t], {a[p].x, b[p].x, a[p].y, b[p].y}, v.x, v.y);
          mma<T>(acc[p][t], {a[p].z, b[p].z, a[p].w, b[p].w}, v.z, v.w);
        }
      }
    }
    if (turn + AHEAD < TURNS) {
      fetch(now, at + AHEAD * STRIDE);
    }
  }

#pragma unroll
  for (int t = 0; t < TILES; ++t) {
#pragma unroll
    for (int p = 0; p < PARTS; ++p) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        sums[warp][p][8 * t + 2 * c + e % 2][g + 8 * (e / 2)] = acc[p][t][e];
      }
    }
    square[t] += __shfl_xor_sync(~0u, square[t], 1);
    square[t] += __shfl_xor_sync(~0u, square[t], 2);
    if (c == 0) {
      squares[warp][8 * t + g] = square[t];
    }
  }
  __syncthreads();

  for (int i = threadIdx.x; i < rows * 16; i += WARPS * 32) {
    const int row = i / 16, out = i % 16;
    float total[PARTS] = {}, power = 0.0f;
#pragma unroll
    for (int from = 0; from < WARPS; ++from) {
      power += squares[from][row];
#pragma unroll
      for (int p = 0; p < PARTS; ++p) {
        total[p] += sums[from][p][row][out];
      }
    }
    const float factor = NORM ? rsqrtf(power / INPUTS + eps) : 1.0f;
    float result = total[0] * factor;
    if (GATED) {
      result *= total[PARTS - 1] * factor / (1.0f + expf(-result));
    }
    if (BIAS) {
      result += value(bias[first + out]);
    }
    if (GELU) {
      result = gelu(result);
    }
    if (RESIDUAL) {
      result += value(residual[row * OUTPUTS + first + out]);
    }
    if constexpr (sizeof(Y) == 4) {
      y[row * OUTPUTS + first + out] = result;
    } else {
      y[row * OUTPUTS + first + out] = rounded<T>(result);
    }
  }
}

// A packed weight [outputs, INPUTS] as whole values, eight for a thread.
template <typename T, int INPUTS, int BITS, int GROUP>
__device__ inline void unpack_weight(Weight<T, INPUTS, BITS, GROUP> weight, T* dense, int outputs) {
  after();
  ready();
  const size_t at = (static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x) * 8;
  if (at < static_cast<size_t>(outputs) * INPUTS) {
    *reinterpret_cast<uint4*>(dense + at) = weight.values_at(at / INPUTS, at % INPUTS);
  }
}

// A block takes a row: its sum of two and a bias, rounded, and of that the RMSNorm, times ``scale``
// where there is one. Without MORE the sum is x.
template <typename T, int DIM, int THREADS, bool MORE, bool BIAS, bool SCALE>
__device__ inline void sum_norm(
    const T* x,           // [rows, DIM]
    const T* more,        // [rows, DIM]
    const T* bias,        // [DIM]
    const T* norm,        // [DIM]
    const T* scales,      // [many, DIM]
    const int* scale_of,  // [rows / per_scale]
    T* normed,            // [rows, DIM]
    T* total,             // [rows, DIM]
    int per_scale,
    float eps) {
  constexpr int VECTORS = DIM / 8, TURNS = (VECTORS + THREADS - 1) / THREADS;
  __shared__ float squares[THREADS / 32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = blockIdx.x;
  const size_t first = static_cast<size_t>(row) * DIM;
  after();
  ready();

  uint4 sums[TURNS];
  float square = 0.0f;
#pragma unroll
  for (int i = 0; i < TURNS; ++i) {
    const int at = 8 * (i * THREADS + threadIdx.x);
    if (at < DIM) {
      sums[i] = load(x + first + at);
      const uint4 other = MORE ? load(more + first + at) : sums[i];
      const uint4 shift = BIAS ? load(bias + at) : other;
      uint32_t* words = reinterpret_cast<uint32_t*>(&sums[i]);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (MORE) {
          const float2 a = unpack<T>(words[k]);
          float2 b = unpack<T>(reinterpret_cast<const uint32_t*>(&other)[k]);
          if (BIAS) {
            const float2 s = unpack<T>(reinterpret_cast<const uint32_t*>(&shift)[k]);
            b.x += s.x;
            b.y += s.y;
          }
          words[k] = pack<T>(a.x + b.x, a.y + b.y);
        }
        const float2 sum = unpack<T>(words[k]);
        square += sum.x * sum.x + sum.y * sum.y;
      }
      if (MORE) {
        *reinterpret_cast<uint4*>(total + first + at) = sums[i];
      }
    }
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    square += __shfl_xor_sync(~0u, square, step);
  }
  if (lane == 0) {
    squares[warp] = square;
  }
  __syncthreads();
  float power = 0.0f;
#pragma unroll
  for (int from = 0; from < THREADS / 32; ++from) {
    power += squares[from];
  }
  const float factor = rsqrtf(power / DIM + eps);

  const T* scale = SCALE ? scales + static_cast<size_t>(scale_of[row / per_scale]) * DIM : norm;
#pragma unroll
  for (int i = 0; i < TURNS; ++i) {
    const int at = 8 * (i * THREADS + threadIdx.x);
    if (at < DIM) {
      const uint4 by = load(norm + at), also = load(scale + at);
      uint32_t* words = reinterpret_cast<uint32_t*>(&sums[i]);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        float2 result = unpack<T>(words[k]);
        const float2 w = unpack<T>(reinterpret_cast<const uint32_t*>(&by)[k]);
        result.x *= factor * w.x;
        result.y *= factor * w.y;
        if (SCALE) {
          const float2 s = unpack<T>(reinterpret_cast<const uint32_t*>(&also)[k]);
          result.x *= s.x;
          result.y *= s.y;
        }
        words[k] = pack<T>(result.x, result.y);
      }
      *reinterpret_cast<uint4*>(normed + first + at) = sums[i];
    }
  }
}

// What follows a product of many rows, eight values for a thread: y [rows, width] from x.
// Gated: x [rows, 2 width], the gates first.
template <typename T, bool GATED, bool BIAS, bool GELU>
__device__ inline void activate(const T* x, const T* bias, T* y, int rows, int width) {
  after();
  ready();
  const size_t at = (static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x) * 8;
  if (at >= static_cast<size_t>(rows) * width) {
    return;
  }
  const size_t row = at / width, column = at % width;
  const T* from = x + row * width * (GATED ? 2 : 1) + column;
  uint4 values = load(from);
  const uint4 other = GATED ? load(from + width) : BIAS ? load(bias + column) : values;
  uint32_t* words = reinterpret_cast<uint32_t*>(&values);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    float2 a = unpack<T>(words[k]);
    const float2 b = unpack<T>(reinterpret_cast<const uint32_t*>(&other)[k]);
    if (GATED) {
      a.x *= b.x / (1.0f + expf(-a.x));
      a.y *= b.y / (1.0f + expf(-a.y));
    } else if (BIAS) {
      a.x += b.x;
      a.y += b.y;
    }
    if (GELU) {
      a.x = gelu(a.x);
      a.y = gelu(a.y);
    }
    words[k] = pack<T>(a.x, a.y);
  }
  *reinterpret_cast<uint4*>(y + at) = values;
}

}  // namespace projection
