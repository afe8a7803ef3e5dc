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
} // namespace lowla
