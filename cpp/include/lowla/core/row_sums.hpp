// Sums of rows of a row-major matrix.
#pragma once

#include "lowla/core/simd.hpp"

namespace lowla {

/// z += sum_r a_r Y(r, :) for n columns; Y has ld numbers a row.
inline void add_rows(const double *Y, index ld, index rows, const double *a, index n, double *z) {
  simd::stored<double>().combine(Y, ld, rows, n, a, z);
}
inline void add_rows(const std::complex<double> *Y, index ld, index rows,
                     const std::complex<double> *a, index n, std::complex<double> *z) {
  for (index r = 0; r < rows; ++r)
    for (index j = 0; j < n; ++j)
      z[j] += a[r] * Y[r * ld + j];
}

} // namespace lowla
