// What a step does beside its layers. Rows of a batch are streams; a stream's state lies in its slot.

namespace step {

using namespace half_pairs;

// cos and sin of each new position's rotary angles: angles [rows, D], interleaved. Positions are
// below four rings (rings.py), so that a float32 angle is exact enough.
template <int D>
__device__ inline void rotary(
    const int* start, const float* turn, float* angles, int n, int rows) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x, row = i / (D / 2), pair = i % (D / 2);
  if (row < rows) {
    const float angle = static_cast<float>(start[row / n] + row % n) * turn[pair];
    angles[2 * i] = cosf(angle);
    angles[2 * i + 1] = sinf(angle);
  }
}

// Where a causal convolution of width 3 begins: each output's three inputs side by side, from the
// frames of this step and the last LEFT of the step before, which lie in the row's slot. A block
// takes a row. frames [B, count, WIDTH], inputs [B, count / STRIDE, 3 * WIDTH].
template <typename T, typename From, int WIDTH, int STRIDE, int LEFT>
__device__ inline void unfold(
    const From* frames, const int* slots, T* tails, T* inputs, int count) {
  __shared__ T kept[LEFT * WIDTH];
  T* tail = tails + static_cast<size_t>(slots[blockIdx.x]) * LEFT * WIDTH;
  const From* from = frames + static_cast<size_t>(blockIdx.x) * count * WIDTH;
  T* to = inputs + static_cast<size_t>(blockIdx.x) * (count / STRIDE) * 3 * WIDTH;
  after();
  for (int i = threadIdx.x; i < LEFT * WIDTH; i += blockDim.x) {
    kept[i] = tail[i];
  }
  ready();
  __syncthreads();
  auto frame = [&](int at, int column) -> T {
    if (at < 0) {
      return kept[(at + LEFT) * WIDTH + column];
    }
    if constexpr (sizeof(From) == sizeof(float)) {
      return rounded<T>(from[at * WIDTH + column]);
    } else {
      return from[at * WIDTH + column];
    }
  };
  for (int i = threadIdx.x; i < count / STRIDE * 3 * WIDTH; i += blockDim.x) {
    const int out = i / (3 * WIDTH), at = out * STRIDE - LEFT + i / WIDTH % 3;
    to[i] = frame(at, i % WIDTH);
  }
  for (int i = threadIdx.x; i < LEFT * WIDTH; i += blockDim.x) {
    tail[i] = frame(count - LEFT + i / WIDTH, i % WIDTH);
  }
}

// Rows of x to their cells, eight values for a thread.
template <typename T, int DIM>
__device__ inline void scatter(const T* x, const int* cells, T* table, int rows) {
  after();
  ready();
  const int at = (blockIdx.x * blockDim.x + threadIdx.x) * 8, row = at / DIM;
  if (row < rows) {
    *reinterpret_cast<uint4*>(table + static_cast<size_t>(cells[row]) * DIM + at % DIM) =
        load(x + at);
  }
}

// x [rows, DIM]: the embedding of the token before each position and that of its audio. A token is
// the stream's last one, or the one given where that is not negative.
template <typename T, int DIM, int BITS, int GROUP>
__device__ inline void embed(
    const int* given, const int* slots, const int* last,
    projection::Weight<T, DIM, BITS, GROUP> table, const int* cells, const T* audio, T* x, int n,
    int rows) {
  const int at = (blockIdx.x * blockDim.x + threadIdx.x) * 8, row = at / DIM, column = at % DIM;
  if (row >= rows) {
    return;
  }
  const int token = given[row] >= 0 ? given[row] : last[slots[row / n]];
  const uint4 one = table.values_at(token, column);
  const uint4 two = load(audio + static_cast<size_t>(cells[row]) * DIM + column);
  uint4 sum;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const float2 a = unpack<T>(reinterpret_cast<const uint32_t*>(&one)[k]);
    const float2 b = unpack<T>(reinterpret_cast<const uint32_t*>(&two)[k]);
    reinterpret_cast<uint32_t*>(&sum)[k] = pack<T>(a.x + b.x, a.y + b.y);
  }
  *reinterpret_cast<uint4*>(x + at) = sum;
}

// The last position of each row: [B, n, DIM] -> [B, DIM].
template <typename T, int DIM>
__device__ inline void last_position(const T* x, T* y, int n, int batch) {
  after();
  ready();
  const int at = (blockIdx.x * blockDim.x + threadIdx.x) * 8, row = at / DIM;
  if (row < batch) {
    *reinterpret_cast<uint4*>(y + at) =
        load(x + (static_cast<size_t>(row) * n + n - 1) * DIM + at % DIM);
  }
}

// The likeliest token of a row, the first of several, under the pad's penalty; -1 where a logit is
// not finite. A block takes a row of logits [VOCAB].
template <int VOCAB, int THREADS>
__device__ inline void greedy(
    const float* logits, const float* penalties, int pad, const int* slots, int* last,
    int* tokens) {
  __shared__ float best_of[THREADS / 32];
  __shared__ int token_of[THREADS / 32];
  const float* row = logits + static_cast<size_t>(blockIdx.x) * VOCAB;
  after();
  ready();
  const float penalty = penalties[blockIdx.x];
  float best = __int_as_float(0xff800000);
  int token = VOCAB;
  bool finite = true;
  for (int i = threadIdx.x; i < VOCAB; i += THREADS) {
    float logit = row[i];
    finite = finite && isfinite(logit);
    logit -= i == pad ? penalty : 0.0f;
    if (logit > best) {
      best = logit;
      token = i;
    }
  }
  auto better = [&](float other, int at) {
    if (other > best || (other == best && at < token)) {
      best = other;
      token = at;
    }
  };
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    better(__shfl_xor_sync(~0u, best, step), __shfl_xor_sync(~0u, token, step));
  }
  if (threadIdx.x % 32 == 0) {
    best_of[threadIdx.x / 32] = best;
    token_of[threadIdx.x / 32] = token;
  }
  finite = __syncthreads_and(finite);
  if (threadIdx.x == 0) {
    for (int i = 1; i < THREADS / 32; ++i) {
      better(best_of[i], token_of[i]);
    }
    tokens[blockIdx.x] = finite ? token : -1;
    last[slots[blockIdx.x]] = finite ? token : 0;
  }
}

// Blocks of every layer's pool zeroed: a block of threads for each, ``count`` values of 4 bytes.
__device__ inline void scrub(uint4* const* pools, const int* blocks, int count) {
  uint4* at = pools[blockIdx.y] + static_cast<size_t>(blocks[blockIdx.x]) * count;
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    at[i] = {0, 0, 0, 0};
  }
}

// Cached keys of every layer turned by angles [D] (cos, sin), interleaved. A block of a pool is
// [2, KV, BLOCK, D], the keys first.
template <typename T, int D, int KV, int BLOCK>
__device__ inline void turn_keys(uint4* const* pools, const int* blocks, const float* angles) {
  T* block = reinterpret_cast<T*>(pools[blockIdx.y]);
  block += static_cast<size_t>(blocks[blockIdx.x]) * BLOCK * 2 * KV * D;
  for (int i = threadIdx.x; i < BLOCK * KV * D / 2; i += blockDim.x) {
    const int pair = i % (D / 2);
    uint32_t* at = reinterpret_cast<uint32_t*>(block) + i;
    const float2 x = unpack<T>(*at);
    const float cos = angles[2 * pair], sin = angles[2 * pair + 1];
    *at = pack<T>(x.x * cos - x.y * sin, x.x * sin + x.y * cos);
  }
}

}  // namespace step
