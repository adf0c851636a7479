// Pairs of 16-bit floats in a register, and the tensor cores' product of them.
//
// mma: c[16, 8] += a[16, 16] b[8, 16]^T. Lane 4g + c holds rows g and g + 8 of a and of the result,
// row g of b, and four of the 16 columns; which four is free as long as a and b agree, so every
// lane takes 16 contiguous bytes of a row for two products.

namespace half_pairs {

template <typename T>
__device__ inline uint32_t pack(float low, float high);
template <typename T>
__device__ inline float2 unpack(uint32_t both);
template <typename T>
__device__ inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <>
__device__ inline uint32_t pack<__nv_bfloat16>(float low, float high) {
  __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<uint32_t*>(&both);
}
template <>
__device__ inline float2 unpack<__nv_bfloat16>(uint32_t both) {
  return __bfloat1622float2(*reinterpret_cast<__nv_bfloat162*>(&both));
}
template <>
__device__ inline void mma<__nv_bfloat16>(
    float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ inline uint32_t pack<__half>(float low, float high) {
  __half2 both = __floats2half2_rn(low, high);
  return *reinterpret_cast<uint32_t*>(&both);
}
template <>
__device__ inline float2 unpack<__half>(uint32_t both) {
  return __half22float2(*reinterpret_cast<__half2*>(&both));
}
template <>
__device__ inline void mma<__half>(
    float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <typename T>
__device__ inline uint4 load(const T* at) {
  return *reinterpret_cast<const uint4*>(at);
}

}  // namespace half_pairs
