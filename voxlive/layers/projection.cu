// Products with a weight for a few rows of x, where reading the weight is all there is to it. What
// stands before and after in a layer is done on the way: RMSNorm (its weight on x, its factor on
// the sums), the gate, bias and residual.

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

// A block makes 16 outputs of every row; its warps share the inputs. ``tiles`` of 8 rows.
template <typename T, int INPUTS, int OUTPUTS, int TILES, int WARPS, int UNROLL,
          bool NORM, bool SCALE, bool GATED, bool BIAS, bool RESIDUAL>
__device__ inline void project(
    const T* x,         // [rows, INPUTS]
    const T* norm,      // [INPUTS]
    const T* scale,     // [rows / per_scale, INPUTS]
    const T* weight,    // [OUTPUTS, INPUTS], gated: [2 OUTPUTS, INPUTS], the gates first
    const T* bias,      // [OUTPUTS]
    const T* residual,  // [rows, OUTPUTS]
    T* y,               // [rows, OUTPUTS]
    int rows,
    int per_scale,
    float eps) {
  constexpr int PARTS = GATED ? 2 : 1, SPAN = 64;
  __shared__ float sums[WARPS][PARTS][TILES * 8][16];
  __shared__ float squares[WARPS][TILES * 8];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, c = lane % 4;
  const int first = blockIdx.x * 16;

  float acc[PARTS][TILES][4] = {}, square[TILES] = {};
#pragma unroll UNROLL
  for (int at = warp * SPAN; at < INPUTS; at += WARPS * SPAN) {
    uint4 w[PARTS][2][2];
#pragma unroll
    for (int p = 0; p < PARTS; ++p) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const T* row = weight + static_cast<size_t>(p * OUTPUTS + first + g + 8 * (i / 2)) * INPUTS;
        w[p][i / 2][i % 2] =
            __ldcs(reinterpret_cast<const uint4*>(row + at + 32 * (i % 2) + 8 * c));
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int column = at + 32 * h + 8 * c;
#pragma unroll
      for (int t = 0; t < TILES; ++t) {
        const int row = 8 * t + g;
        uint4 v = {0, 0, 0, 0};
        if (row < rows) {
          v = load(x + row * INPUTS + column);
          if (NORM) {
            v = weighted<T, SCALE>(
                v, norm + column, scale + row / per_scale * INPUTS + column, square[t]);
          }
        }
#pragma unroll
        for (int p = 0; p < PARTS; ++p) {
          const uint4 &a = w[p][0][h], &b = w[p][1][h];
          mma<T>(acc[p][t], {a.x, b.x, a.y, b.y}, v.x, v.y);
          mma<T>(acc[p][t], {a.z, b.z, a.w, b.w}, v.z, v.w);
        }
      }
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
    float value = total[0] * factor;
    if (GATED) {
      value *= total[PARTS - 1] * factor / (1.0f + expf(-value));
    }
    if (BIAS) {
      value += static_cast<float>(bias[first + out]);
    }
    if (RESIDUAL) {
      value += static_cast<float>(residual[row * OUTPUTS + first + out]);
    }
    y[row * OUTPUTS + first + out] = static_cast<T>(value);
  }
}

// A block takes a row: its sum of two, rounded, and of that the RMSNorm, times ``scale`` where there
// is one.
template <typename T, int DIM, int THREADS, bool SCALE>
__device__ inline void sum_norm(
    const T* x,      // [rows, DIM]
    const T* more,   // [rows, DIM]
    const T* norm,   // [DIM]
    const T* scale,  // [rows / per_scale, DIM]
    T* normed,       // [rows, DIM]
    T* total,        // [rows, DIM]
    int per_scale,
    float eps) {
  constexpr int VECTORS = DIM / 8, TURNS = (VECTORS + THREADS - 1) / THREADS;
  __shared__ float squares[THREADS / 32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = blockIdx.x;
  const size_t first = static_cast<size_t>(row) * DIM;

  uint4 sums[TURNS];
  float square = 0.0f;
#pragma unroll
  for (int i = 0; i < TURNS; ++i) {
    const int at = 8 * (i * THREADS + threadIdx.x);
    if (at < DIM) {
      sums[i] = load(x + first + at);
      const uint4 other = load(more + first + at);
      uint32_t* words = reinterpret_cast<uint32_t*>(&sums[i]);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float2 a = unpack<T>(words[k]);
        const float2 b = unpack<T>(reinterpret_cast<const uint32_t*>(&other)[k]);
        words[k] = pack<T>(a.x + b.x, a.y + b.y);
        const float2 sum = unpack<T>(words[k]);
        square += sum.x * sum.x + sum.y * sum.y;
      }
      *reinterpret_cast<uint4*>(total + first + at) = sums[i];
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

#pragma unroll
  for (int i = 0; i < TURNS; ++i) {
    const int at = 8 * (i * THREADS + threadIdx.x);
    if (at < DIM) {
      const uint4 by = load(norm + at);
      const uint4 also = SCALE ? load(scale + row / per_scale * DIM + at) : by;
      uint32_t* words = reinterpret_cast<uint32_t*>(&sums[i]);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        float2 value = unpack<T>(words[k]);
        const float2 w = unpack<T>(reinterpret_cast<const uint32_t*>(&by)[k]);
        value.x *= factor * w.x;
        value.y *= factor * w.y;
        if (SCALE) {
          const float2 s = unpack<T>(reinterpret_cast<const uint32_t*>(&also)[k]);
          value.x *= s.x;
          value.y *= s.y;
        }
        words[k] = pack<T>(value.x, value.y);
      }
      *reinterpret_cast<uint4*>(normed + first + at) = sums[i];
    }
  }
}

}  // namespace projection
