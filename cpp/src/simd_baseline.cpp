// The hot loops for the baseline instruction set (see simd_kernels.inl).
#define LOWLA_SIMD_NAMESPACE baseline
#define LOWLA_VECTOR_BYTES 16
#include "simd_kernels.inl"
#include "simd_sketch.inl"
#include "simd_stored.inl"
#include "simd_tiles.inl"
#include "simd_transport.inl"
