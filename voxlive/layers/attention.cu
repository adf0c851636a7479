// One step of attention over paged rings: rotate, write, attend.
//
// A warp takes 16 ring slots at a time against a tile of 16 queries (positions x heads that share
// their keys) on the tensor cores, straight from global memory. Softmax is the streaming one
// (Milakov and Gimelshein, 2018), in float32 and base 2; warps and then blocks merge their sums.

namespace paged {

constexpr int TILE = 16;
#define NEVER __int_as_float(0x7f800000)  // infinity

using namespace half_pairs;

// Four interleaved pairs turned by their angles, given as (cos, sin).
template <typename T>
__device__ inline uint4 turned(uint4 values, const float* angles) {
  uint32_t* words = reinterpret_cast<uint32_t*>(&values);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float2 x = unpack<T>(words[i]);
    float2 angle = *reinterpret_cast<const float2*>(angles + 2 * i);
    words[i] = pack<T>(x.x * angle.x - x.y * angle.y, x.x * angle.y + x.y * angle.x);
  }
  return values;
}

// What a warp knows of its tile: lane 4g + c holds rows g and g + 8 (index 0 and 1).
template <int D>
struct Sums {
  static constexpr int FLOATS = D / 2 + 4;
  float top[2], total[2];  // the greatest score, equal in all lanes of a row; this lane's weights
  float out[D / 8][4];

  __device__ void clear() {
    top[0] = top[1] = -NEVER;
    total[0] = total[1] = 0.0f;
#pragma unroll
    for (int j = 0; j < D / 8; ++j) {
      out[j][0] = out[j][1] = out[j][2] = out[j][3] = 0.0f;
    }
  }

  // Raise ``top`` to ``to`` and shrink what was summed under the old one.
  __device__ void raise(const float (&to)[2]) {
    float by[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      by[half] = to[half] == top[half] ? 1.0f : exp2f(top[half] - to[half]);
      top[half] = to[half];
      total[half] *= by[half];
    }
#pragma unroll
    for (int j = 0; j < D / 8; ++j) {
      out[j][0] *= by[0];
      out[j][1] *= by[0];
      out[j][2] *= by[1];
      out[j][3] *= by[1];
    }
  }

  __device__ void store(float* to, int lane) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      to[half * 32 + lane] = top[half];
      to[(2 + half) * 32 + lane] = total[half];
    }
#pragma unroll
    for (int j = 0; j < D / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        to[(4 + 4 * j + e) * 32 + lane] = out[j][e];
      }
    }
  }

  __device__ void merge(const float* from, int lane) {
    float to[2], scale[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float other = from[half * 32 + lane];
      to[half] = fmaxf(top[half], other);
      scale[half] = other == to[half] ? 1.0f : exp2f(other - to[half]);
    }
    raise(to);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      total[half] += scale[half] * from[(2 + half) * 32 + lane];
    }
#pragma unroll
    for (int j = 0; j < D / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        out[j][e] += scale[e / 2] * from[(4 + 4 * j + e) * 32 + lane];
      }
    }
  }
};

// All warps' sums end in warp 0.
template <int D, int WARPS>
__device__ inline void gather(Sums<D>& sums, float* shared, int warp, int lane) {
#pragma unroll
  for (int half = WARPS / 2; half > 0; half /= 2) {
    if (warp >= half && warp < 2 * half) {
      sums.store(shared + (warp - half) * Sums<D>::FLOATS * 32, lane);
    }
    __syncthreads();
    if (warp < half) {
      sums.merge(shared + warp * Sums<D>::FLOATS * 32, lane);
    }
    __syncthreads();
  }
}

template <typename T, int D, int GROUP, int KV, int WINDOW, int RING, int BLOCK, int WARPS, bool BIAS>
struct Step {
  static constexpr int HEADS = GROUP * KV, WIDTH = (HEADS + 2 * KV) * D;
  // A block of the pool is [2, KV, BLOCK, D]: what a warp reads of one lies together.
  static constexpr int VALUES = KV * BLOCK * D;
  static constexpr int CHUNKS = D / 32;  // of 8 head dimensions, per lane and key

  const T* qkv;         // of this row: [n, WIDTH]
  const T* bias;        // [WIDTH]
  T* pool;
  const float* angles;  // of this row: [n, D]
  const int* blocks;    // of this row
  int start, n, head;
  int first, newest;  // the tile's own new positions: from ``start + first`` to ``newest``
  int g, c;

  // Where the tile of ring slots that begins with position ``base`` lies in the pool.
  __device__ T* tile(int base) const {
    int at = base % RING;
    return pool + static_cast<size_t>(blocks[at / BLOCK]) * (2 * VALUES) +
           (head * BLOCK + at % BLOCK) * D;
  }

  // Eight values of a head with their bias.
  __device__ uint4 added(uint4 values, int at, int dim) const {
    if constexpr (BIAS) {
      const uint4 more = load(bias + at * D + dim);
      uint32_t* words = reinterpret_cast<uint32_t*>(&values);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 a = unpack<T>(words[i]);
        const float2 b = unpack<T>(reinterpret_cast<const uint32_t*>(&more)[i]);
        words[i] = pack<T>(a.x + b.x, a.y + b.y);
      }
    }
    return values;
  }

  // A key (part 0) or value (part 1) of this step, as it was projected.
  __device__ const T* projected(int position, int part) const {
    int i = min(position, newest) - start;
    return qkv + i * WIDTH + (HEADS + part * KV + head) * D;
  }

  __device__ void prefetch(const T* at) const {
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      if (c < D / 64) {
        const T* key = at + (8 * t + g) * D + 64 * c;
        asm volatile("prefetch.global.L2 [%0];" ::"l"(key));
        asm volatile("prefetch.global.L2 [%0];" ::"l"(key + VALUES));
      }
    }
  }

  // Keys and values of a tile; all loads go out before anything waits for one.
  template <typename Key, typename Value>
  __device__ void bring(Key key, Value value, uint4 (&k)[2][CHUNKS], uint4 (&v)[4][D / 64]) const {
#pragma unroll
    for (int t = 0; t < 2; ++t) {
#pragma unroll
      for (int j = 0; j < CHUNKS; ++j) {
        k[t][j] = load(key(8 * t + g) + (4 * j + c) * 8);
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < D / 64; ++j) {
        v[i][j] = load(value(2 * c + i % 2 + i / 2 * 8) + 64 * j + 8 * g);
      }
    }
  }

  // What a step brings comes from its projection: it is written to the pool, but nobody reads it
  // there before the next step.
  __device__ void fetch(int base, T* at, uint4 (&k)[2][CHUNKS], uint4 (&v)[4][D / 64]) const {
    if (base + TILE <= start) {
      bring([&](int i) { return at + i * D; },
            [&](int i) { return at + i * D + VALUES; }, k, v);
    } else {
      bring([&](int i) { return base + i < start ? at + i * D : projected(base + i, 0); },
            [&](int i) { return base + i < start ? at + i * D + VALUES : projected(base + i, 1); },
            k, v);
      renew(base, at, k, v);
    }
  }

  // Rotate this step's keys, write what is this tile's to write, and blank what is yet to come.
  __device__ void renew(int base, T* at, uint4 (&k)[2][CHUNKS], uint4 (&v)[4][D / 64]) const {
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      int position = base + 8 * t + g, i = position - start;
#pragma unroll
      for (int j = 0; j < CHUNKS; ++j) {
        int dim = (4 * j + c) * 8;
        if (position > newest) {
          k[t][j] = uint4{0, 0, 0, 0};
        } else if (i >= 0) {
          k[t][j] = added(k[t][j], HEADS + head, dim);
          k[t][j] = turned<T>(k[t][j], angles + i * D + dim);
        }
        if (i >= first && position <= newest) {
          *reinterpret_cast<uint4*>(at + (8 * t + g) * D + dim) = k[t][j];
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      int key = 2 * c + i % 2 + i / 2 * 8, position = base + key;
#pragma unroll
      for (int j = 0; j < D / 64; ++j) {
        if (position > newest) {
          v[i][j] = uint4{0, 0, 0, 0};
        } else if (position >= start) {
          v[i][j] = added(v[i][j], HEADS + KV + head, 64 * j + 8 * g);
        }
        if (position - start >= first && position <= newest) {
          *reinterpret_cast<uint4*>(at + key * D + VALUES + 64 * j + 8 * g) = v[i][j];
        }
      }
    }
  }

  __device__ void attend(
      int base,
      T* at,
      const uint32_t (&q)[D / 16][4],
      const int (&query)[2],
      Sums<D>& sums) const {
    uint4 k[2][CHUNKS], v[4][D / 64];
    fetch(base, at, k, v);
    float s[2][4] = {};
#pragma unroll
    for (int t = 0; t < 2; ++t) {
#pragma unroll
      for (int j = 0; j < CHUNKS; ++j) {
        mma<T>(s[t], q[2 * j], k[t][j].x, k[t][j].y);
        mma<T>(s[t], q[2 * j + 1], k[t][j].z, k[t][j].w);
      }
    }
    constexpr float LOG2E = 1.4426950408889634f;
    const float scale = LOG2E * rsqrtf(static_cast<float>(D));
    float top[2] = {sums.top[0], sums.top[1]};
#pragma unroll
    for (int t = 0; t < 2; ++t) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        int position = base + 8 * t + 2 * c + e % 2, last = query[e / 2];
        bool seen = position <= last && position > last - WINDOW;
        s[t][e] = seen ? s[t][e] * scale : -NEVER;
        top[e / 2] = fmaxf(top[e / 2], s[t][e]);
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      top[half] = fmaxf(top[half], __shfl_xor_sync(~0u, top[half], 1));
      top[half] = fmaxf(top[half], __shfl_xor_sync(~0u, top[half], 2));
    }
    sums.raise(top);
#pragma unroll
    for (int t = 0; t < 2; ++t) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        s[t][e] = top[e / 2] == -NEVER ? 0.0f : exp2f(s[t][e] - top[e / 2]);
        sums.total[e / 2] += s[t][e];
      }
    }
    const uint32_t p[4] = {
        pack<T>(s[0][0], s[0][1]),
        pack<T>(s[0][2], s[0][3]),
        pack<T>(s[1][0], s[1][1]),
        pack<T>(s[1][2], s[1][3])};
#pragma unroll
    for (int j = 0; j < D / 64; ++j) {
      const uint32_t* rows[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        rows[i] = reinterpret_cast<const uint32_t*>(&v[i][j]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        mma<T>(sums.out[8 * j + 2 * i], p,
               __byte_perm(rows[0][i], rows[1][i], 0x5410),
               __byte_perm(rows[2][i], rows[3][i], 0x5410));
        mma<T>(sums.out[8 * j + 2 * i + 1], p,
               __byte_perm(rows[0][i], rows[1][i], 0x7632),
               __byte_perm(rows[2][i], rows[3][i], 0x7632));
      }
    }
  }

  // Rows of the tile to ``context`` [n, HEADS * D] of this row.
  __device__ void finish(Sums<D>& sums, T* context, int tile) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float total = sums.total[half];
      total += __shfl_xor_sync(~0u, total, 1);
      total += __shfl_xor_sync(~0u, total, 2);
      int at = tile * TILE + g + 8 * half;
      if (at >= n * GROUP) {
        continue;
      }
      T* to = context + (at / GROUP * HEADS + head * GROUP + at % GROUP) * D + 16 * c;
#pragma unroll
      for (int j = 0; j < D / 64; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          uint4 values;
          uint32_t* words = reinterpret_cast<uint32_t*>(&values);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            words[i] = pack<T>(sums.out[8 * j + 2 * i][2 * half + e] / total,
                               sums.out[8 * j + 2 * i + 1][2 * half + e] / total);
          }
          *reinterpret_cast<uint4*>(to + 64 * j + 8 * e) = values;
        }
      }
    }
  }
};

template <typename T, int D, int GROUP, int KV, int WINDOW, int RING, int BLOCK, int WARPS, bool BIAS>
__device__ inline void step(
    const T* qkv,
    const T* bias,  // [WIDTH], which is not in qkv yet
    T* pool,
    const float* angles,
    const int* start,
    const int* blocks,
    int* tickets,
    T* context,
    float* parts,
    int n) {
  using Of = Step<T, D, GROUP, KV, WINDOW, RING, BLOCK, WARPS, BIAS>;
  __shared__ float shared[(WARPS + 1) / 2 * Sums<D>::FLOATS * 32];
  __shared__ bool last;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int tiles = (n * GROUP + TILE - 1) / TILE;
  const int row = blockIdx.z / tiles, tile = blockIdx.z % tiles;
  const int split = blockIdx.y, splits = gridDim.y;
  const int first = tile * TILE / GROUP, final = min(n - 1, (tile * TILE + TILE - 1) / GROUP);

  Of of;
  of.qkv = qkv + static_cast<size_t>(row) * n * Of::WIDTH;
  of.bias = bias;
  of.pool = pool;
  of.angles = angles + row * n * D;
  of.blocks = blocks + row * (RING / BLOCK);
  of.start = start[row];
  of.n = n;
  of.head = blockIdx.x;
  of.first = first;
  of.newest = of.start + final;
  of.g = lane / 4;
  of.c = lane % 4;

  const int oldest = max(0, of.start + first - WINDOW + 1);
  const int stride = splits * WARPS * TILE;
  int base = (oldest / TILE + split * WARPS + warp) * TILE;
  T* at = of.tile(min(base, of.newest));
  // What earlier steps wrote can be on its way while this step's projection is worked out.
  after();
  if (base + TILE <= of.start) {
    of.prefetch(at);
  }
  if (base + stride + TILE <= of.start) {
    of.prefetch(of.tile(base + stride));
  }
  ready();

  uint32_t q[D / 16][4];
  int query[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    int at = tile * TILE + of.g + 8 * half, i = at / GROUP;
    bool real = at < n * GROUP;
    query[half] = real ? of.start + i : -1;
#pragma unroll
    for (int j = 0; j < Of::CHUNKS; ++j) {
      int dim = (4 * j + of.c) * 8;
      uint4 values = {0, 0, 0, 0};
      if (real) {
        values = load(of.qkv + i * Of::WIDTH + (of.head * GROUP + at % GROUP) * D + dim);
        values = of.added(values, of.head * GROUP + at % GROUP, dim);
        values = turned<T>(values, of.angles + i * D + dim);
      }
      q[2 * j][half] = values.x;
      q[2 * j][half + 2] = values.y;
      q[2 * j + 1][half] = values.z;
      q[2 * j + 1][half + 2] = values.w;
    }
  }

  Sums<D> sums;
  sums.clear();
  while (base <= of.newest) {
    T* next = of.tile(min(base + stride, of.newest));
    of.attend(base, at, q, query, sums);
    base += stride;
    at = next;
  }
  gather<D, WARPS>(sums, shared, warp, lane);

  if (splits > 1) {
    const int unit = blockIdx.z * KV + blockIdx.x;
    float* ours = parts + static_cast<size_t>(unit) * splits * Sums<D>::FLOATS * 32;
    if (warp == 0) {
      sums.store(ours + split * Sums<D>::FLOATS * 32, lane);
      __threadfence();
      __syncwarp();
      if (lane == 0) {
        last = atomicAdd(tickets + unit, 1) == splits - 1;
      }
    }
    __syncthreads();
    if (!last) {
      return;
    }
    __threadfence();
    if (threadIdx.x == 0) {
      tickets[unit] = 0;
    }
    sums.clear();
    for (int i = warp; i < splits; i += WARPS) {
      sums.merge(ours + i * Sums<D>::FLOATS * 32, lane);
    }
    gather<D, WARPS>(sums, shared, warp, lane);
  }
  if (warp == 0) {
    of.finish(sums, context + static_cast<size_t>(row) * n * Of::HEADS * D, tile);
  }
}

}  // namespace paged
