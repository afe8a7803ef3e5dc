// The hot loops for the v4 instruction set (see simd_kernels.inl).
#define LOWLA_SIMD_NAMESPACE v4
#define LOWLA_VECTOR_BYTES 64
#include "simd_kernels.inl"
#include "simd_pairs.inl"
#include "simd_sketch.inl"
#include "simd_stored.inl"
#include "simd_tiles.inl"
#include "simd_transport.inl"
