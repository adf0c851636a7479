// 16-bit floats: pairs in a register, the tensor cores' product of them, and how kernels follow one
// another. Needs no header, so that NVIDIA's run-time compiler takes it alone.
//
// mma: c[16, 8] += a[16, 16] b[8, 16]^T. Lane 4g + c holds rows g and g + 8 of a and of the result,
// row g of b, and four of the 16 columns; which four is free as long as a and b agree, so every
// lane takes 16 contiguous bytes of a row for two products.

using uint32_t = unsigned int;
using int64_t = long long;

namespace half_pairs {

struct bf16 {
  unsigned short bits;
};
struct f16 {
  unsigned short bits;
};

template <typename T>
__device__ inline uint32_t pack(float low, float high);
template <typename T>
__device__ inline float2 unpack(uint32_t both);
template <typename T>
__device__ inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <>
__device__ inline uint32_t pack<bf16>(float low, float high) {
  uint32_t both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
template <>
__device__ inline float2 unpack<bf16>(uint32_t both) {
  return {__uint_as_float(both << 16), __uint_as_float(both & 0xffff0000u)};
}
template <>
__device__ inline void mma<bf16>(
    float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ inline uint32_t pack<f16>(float low, float high) {
  uint32_t both;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
template <>
__device__ inline float2 unpack<f16>(uint32_t both) {
  float2 pair;
  asm("{\n.reg .f16 low, high;\nmov.b32 {low, high}, %2;\n"
      "cvt.f32.f16 %0, low;\ncvt.f32.f16 %1, high;\n}"
      : "=f"(pair.x), "=f"(pair.y)
      : "r"(both));
  return pair;
}
template <>
__device__ inline void mma<f16>(
    float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Pairs times pairs plus pairs, each rounded once.
template <typename T>
__device__ inline uint32_t fma(uint32_t a, uint32_t b, uint32_t c);

template <>
__device__ inline uint32_t fma<bf16>(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t pair;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(pair) : "r"(a), "r"(b), "r"(c));
  return pair;
}
template <>
__device__ inline uint32_t fma<f16>(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t pair;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(pair) : "r"(a), "r"(b), "r"(c));
  return pair;
}

// Pairs of numbers below 16, given in the low bits of each half, as floats: put behind a power of
// two whose last bit is worth one, which is then taken off.
template <typename T>
__device__ inline uint32_t whole(uint32_t both);
template <>
__device__ inline uint32_t whole<bf16>(uint32_t both) {
  return fma<bf16>(both | 0x43004300u, 0x3f803f80u, 0xc300c300u);
}
template <>
__device__ inline uint32_t whole<f16>(uint32_t both) {
  return fma<f16>(both | 0x64006400u, 0x3c003c00u, 0xe400e400u);
}
template <typename T>
__device__ inline uint32_t sixteen();
template <>
__device__ inline uint32_t sixteen<bf16>() {
  return 0x41804180u;
}
template <>
__device__ inline uint32_t sixteen<f16>() {
  return 0x4c004c00u;
}

template <typename T>
__device__ inline float value(T x) {
  return unpack<T>(x.bits).x;
}
template <typename T>
__device__ inline T rounded(float x) {
  return {static_cast<unsigned short>(pack<T>(x, 0.0f) & 0xffffu)};
}

template <typename T>
__device__ inline uint4 load(const T* at) {
  return *reinterpret_cast<const uint4*>(at);
}

// The exact GELU (erf).
__device__ inline float gelu(float x) {
  return x * (0.5f + 0.5f * erff(x * 0.70710678118654752f));
}

// Let the next kernel of the graph start, whose blocks wait at ``ready`` until this one is through.
__device__ inline void after() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
// Wait for the kernels before this one: from here on what they wrote may be read.
__device__ inline void ready() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

}  // namespace half_pairs
