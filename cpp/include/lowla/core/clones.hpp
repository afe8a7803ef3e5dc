// LOWLA_CLONES: compile a function for the baseline and for x86-64-v3 and -v4; the loader picks.
// To be put on an outer, non-template function. Empty where ifuncs do not exist, and under the
// thread sanitizer, whose run-time is not up yet when the loader picks.
#pragma once

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) &&       \
    !defined(__CUDACC__) && !defined(__SANITIZE_THREAD__)
#define LOWLA_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define LOWLA_CLONES
#endif

namespace lowla {
/// Eight doubles, in however many registers, of any alignment.
typedef double eight __attribute__((vector_size(64), aligned(8), may_alias));

/// The rows of v become its columns.
static inline __attribute__((always_inline)) void transpose(eight (&v)[8]) {
  typedef long long places __attribute__((vector_size(64)));
  eight pairs[8], fours[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = __builtin_shuffle(v[i], v[i + 1], places{0, 8, 2, 10, 4, 12, 6, 14});
    pairs[i + 1] = __builtin_shuffle(v[i], v[i + 1], places{1, 9, 3, 11, 5, 13, 7, 15});
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const int at = i + (i & 2); // 0, 1, 4, 5
    fours[at] = __builtin_shuffle(pairs[at], pairs[at + 2], places{0, 1, 8, 9, 4, 5, 12, 13});
    fours[at + 2] = __builtin_shuffle(pairs[at], pairs[at + 2], places{2, 3, 10, 11, 6, 7, 14, 15});
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    v[i] = __builtin_shuffle(fours[i], fours[i + 4], places{0, 1, 2, 3, 8, 9, 10, 11});
    v[i + 4] = __builtin_shuffle(fours[i], fours[i + 4], places{4, 5, 6, 7, 12, 13, 14, 15});
  }
}
} // namespace lowla
