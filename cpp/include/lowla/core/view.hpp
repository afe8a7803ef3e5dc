// Strided views of the caller's memory: nothing is copied to make one.
#pragma once

#include "lowla/core/scalar.hpp"

#include <vector>

namespace lowla {

/// m x n matrix; entry (i, j) at data[i rs + j cs], strides in elements, any sign.
/// `conjugated`: the view stands for the complex conjugate of what is stored.
template <class T> struct MatrixView {
  const T *data;
  index m, n;
  index rs, cs;
  bool conjugated = false;

  const T *at(index i, index j) const { return data + i * rs + j * cs; }
  MatrixView adjoint() const { return {data, n, m, cs, rs, is_complex_v<T> && !conjugated}; }
  MatrixView rows(index first, index count) const {
    return {data + first * rs, count, n, rs, cs, conjugated};
  }
};

/// m x n CSR matrix over the caller's three arrays; duplicates are summed, order does not matter.
template <class T, class I> struct CsrView {
  const I *indptr;
  const I *indices;
  const T *data;
  index m, n;
  index nnz() const { return static_cast<index>(indptr[m]) - static_cast<index>(indptr[0]); }
};

} // namespace lowla
