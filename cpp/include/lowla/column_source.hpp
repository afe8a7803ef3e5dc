// A matrix with entries, as decompositions by its own columns and rows read it: in double
// precision, which entries of single precision are copied to.
//
// Squares of the entries have to be far from overflow and underflow. What is read of A tells
// whether they are; where not, all is done again for A 2^e (`at_safe_scale`).
#pragma once

#include "lowla/core/error.hpp"
#include "lowla/device/host.hpp"
#include "lowla/pivoting.hpp"
#include "lowla/sketch.hpp"

#include <cmath>
#include <limits>
#include <memory>
#include <vector>

namespace lowla {

/// A row-major matrix, uninitialised at first.
template <class W> struct Entries {
  index rows = 0, cols = 0;
  Buffer<W> storage;

  Entries() = default;
  Entries(index m, index n) : rows(m), cols(n), storage(m * n) {}
  W *row(index i) { return storage.get() + i * cols; }
  const W *row(index i) const { return storage.get() + i * cols; }
  MatrixView<W> view() const { return {row(0), rows, cols, cols, 1, false}; }
};

template <class W> Panel<W> panel_of(MatrixView<W> A);
/// P^H
template <class W> Entries<W> adjoint_entries(const Panel<W> &P);

/// The S of ColumnSource::signs, d x m.
SketchSpec sign_spec(index d, index m, index nnz, std::uint64_t key);

template <class W> class ColumnSource {
public:
  virtual ~ColumnSource() = default;
  index m = 0, n = 0;

  virtual std::unique_ptr<typename Host<W>::Matrix> matrix() const = 0;
  /// How many entries are stored.
  virtual index count() const = 0;
  /// S A (d x n) for d rows of sparse signs, `nnz` a column, E S^T S = I.
  virtual Entries<W> signs(index d, index nnz, std::uint64_t key) const = 0;
  /// A[:, cols]
  virtual Panel<W> columns(const Places &cols) const = 0;
  /// A[rows]^H
  virtual Panel<W> adjoint_rows(const Places &rows) const = 0;
  /// A 2^exponent, a copy.
  virtual std::unique_ptr<ColumnSource> scaled(int exponent) const = 0;

  /// G A (l x n), G Gaussian and unscaled.
  virtual Entries<W> gaussian(index l, std::uint64_t key, std::uint32_t stream) const;

  /// A itself.
  Entries<W> entries() const;
};

/// Views of T in double precision.
template <class T> std::unique_ptr<ColumnSource<wide_t<T>>> column_source(MatrixView<T> A);
template <class T, class I> std::unique_ptr<ColumnSource<wide_t<T>>> column_source(CsrView<T, I> A);

/// Each as a dtype with that unit roundoff, double or single, holds it.
template <class W> void round_to(W *begin, const W *end, double eps);

/// x 2^exponent; 2^exponent itself may be out of range.
template <class W> W times_power(W x, int exponent) {
  const double half = std::ldexp(1.0, exponent / 2);
  return x * half * std::ldexp(1.0, exponent - exponent / 2);
}

/// Relative error above which ||A||^2 - ||P||^2 is accurate to 1 %: the difference is off by about
/// 50 u ||A||^2, a hundredth of the squared floor.
template <class W> double identity_floor() { return std::sqrt(5e3 * unit_roundoff<W>()); }

/// Says that entries are NaN or Inf, or that their squares may be out of range.
struct OutOfRange {};

/// OutOfRange, or nothing.
template <class W> void require_safe(typename Host<W>::Matrix &A);
template <class W> Entries<W> require_safe(Entries<W> Y);

/// solve(A, 0), or solve(A 2^e, e) where A is out of range; for NaN or Inf in A unknown(), or
/// ValueError if `check_finite`.
template <class W, class Solve, class Unknown>
auto at_safe_scale(const ColumnSource<W> &A, bool check_finite, Solve &&solve, Unknown &&unknown)
    -> decltype(unknown()) {
  try {
    return solve(A, 0);
  } catch (const OutOfRange &) {
  }
  bool finite = true;
  const double largest = A.matrix()->scan(finite);
  if (!finite) {
    if (check_finite)
      throw ValueError("A contains NaN or Inf");
    return unknown();
  }
  const int exponent = -std::ilogb(largest);
  return solve(*A.scaled(exponent), exponent);
}

} // namespace lowla
