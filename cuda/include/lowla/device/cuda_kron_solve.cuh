// Solves, rearrangements and projections of structured matrices on the GPU (see kron.hpp and
// monarch.hpp for what is computed).
//
// Small matrices are factored on the host in double precision: the factors of a Kronecker product
// and the blocks of a Monarch matrix by LU with partial pivoting, and the Gram matrices of the
// blocks of a projection by the Lanczos process of rank_one.hpp. Everything of the size of the
// operands stays on the device: substitutions go one mode, or one stage, after the other, a thread
// a column.
//
// Projection: k steps, one for each block column of W, which is copied to double precision. What
// crosses in a step are l Gram matrices of order min(s, p) and four vectors of a column's length.
#pragma once

#include "lowla/core/blas.hpp"
#include "lowla/core/threads.hpp"
#include "lowla/device/cuda_kron.cuh"
#include "lowla/device/functors_kron.hpp"
#include "lowla/kron.hpp"
#include "lowla/rank_one.hpp"

#include <cstdio>
#include <string>

namespace lowla {
namespace cuda_detail {

/// LU factorisations of square blocks. `name(b)` names block b where it is singular to working
/// precision.
template <class T, class Runtime> class LuBlocks {
public:
  using Wide = wide_t<T>;

  template <class Name>
  LuBlocks(const BlocksView<T> &F, Name &&name) : n_(F.n), many_(F.count > 1) {
    DeviceArray<Runtime, T> packed(F.count * n_ * n_);
    Runtime::for_each(F.count * n_ * n_,
                      functors::PackBlocks<T>{reals(F.data), F.block, F.rs, F.cs, F.conjugated, n_,
                                              n_, reals(packed.get())});
    const std::vector<T> entries = to_host<Runtime>(packed.get(), F.count * n_ * n_);
    std::vector<Wide> lu(entries.size());
    std::vector<index> rows;
    for (index b = 0; b < F.count; ++b) {
      Small<Wide> block(n_, n_);
      for (index i = 0; i < n_; ++i)
        for (index j = 0; j < n_; ++j)
          block(i, j) = Wide(entries[at((b * n_ + i) * n_ + j)]);
      const double size = norm1(block);
      const blas::Lu<Wide> found = blas::lu(std::move(block));
      const double cond = size * blas::inverse_norm1(found);
      if (!(cond * std::numeric_limits<real_t<T>>::epsilon() < 1)) {
        char number[32];
        std::snprintf(number, sizeof number, "%.1e", cond);
        throw LinAlgError(name(b) + " is singular to working precision (condition number " +
                          number + ")");
      }
      for (index i = 0; i < n_; ++i)
        for (index j = 0; j < n_; ++j) {
          const Wide entry = found.factors(i, j);
          lu[at((b * n_ + i) * n_ + j)] = i == j ? Wide(1) / entry : entry;
        }
      rows.insert(rows.end(), found.rows.begin(), found.rows.end());
    }
    lu_ = to_device<Runtime>(lu);
    rows_ = to_device<Runtime>(rows);
  }

  /// X_b = F_b^-1 B_b for `count` blocks of `columns` columns.
  void solve(const T *B, RowPlaces b, T *X, RowPlaces x, index columns, index count) const {
    CancelScope::poll();
    Runtime::for_each(count * columns,
                      functors::SolveBlocks<T>{reals(lu_.get()), rows_.get(), n_, many_ ? 1 : 0,
                                               reals(B), b.block, b.row, reals(X), x.block, x.row,
                                               columns});
  }

private:
  static double norm1(const Small<Wide> &A) {
    double norm = 0;
    for (index j = 0; j < A.cols; ++j) {
      double sum = 0;
      for (index i = 0; i < A.rows; ++i)
        sum += std::abs(A(i, j));
      norm = std::max(norm, sum);
    }
    return norm;
  }

  index n_;
  bool many_;
  DeviceArray<Runtime, Wide> lu_;
  DeviceArray<Runtime, index> rows_;
};

/// The l blocks m x n, m >= n, of one block column of W and what the host is asked of them.
template <class T, class Runtime> class RankOneBlocks {
public:
  using S = wide_t<T>;

  explicit RankOneBlocks(const BlocksView<T> &F) : count_(F.count), m_(F.m), n_(F.n) {
    const std::vector<double> largest = largest_parts(F);
    std::vector<double> factor;
    for (const double size : largest) {
      const bool usable = size > 0 && std::isfinite(size);
      finite_.push_back(std::isfinite(size));
      exponent_.push_back(usable ? std::ilogb(size) / 2 * 2 : 0);
      factor.push_back(std::isfinite(size) ? std::ldexp(1.0, -exponent_.back() / 2) : 0.0);
    }
    B_ = DeviceArray<Runtime, S>(count_ * m_ * n_);
    const auto factors = to_device<Runtime>(factor);
    Runtime::for_each(count_ * m_ * n_,
                      functors::LoadBlocks<T>{reals(F.data), F.block, F.rs, F.cs, F.conjugated,
                                              factors.get(), m_, n_, reals(B_.get())});
  }

  bool finite(index b) const { return finite_[at(b)]; }
  int exponent(index b) const { return exponent_[at(b)]; }

  /// u (m) and conj(z) (n) of each block, one block after the other: u = B x / ||B x|| for the
  /// leading eigenvector x of B^H B, and z = B^H u.
  void vectors(std::vector<S> &u, std::vector<S> &z) const {
    const index mn = m_ * n_;
    DeviceArray<Runtime, S> gram(count_ * n_ * n_), y(count_ * m_), t(count_ * n_);
    // Row-major memory is the transpose: B^T conj(B) by columns is B^H B by rows.
    Runtime::gemm_batched('N', 'C', n_, n_, m_, B_.get(), n_, mn, B_.get(), n_, mn, gram.get(), n_,
                          n_ * n_, count_);
    const auto x =
        to_device<Runtime>(leading_eigenvectors(to_host<Runtime>(gram.get(), count_ * n_ * n_)));
    Runtime::gemm_batched('T', 'N', m_, 1, n_, B_.get(), n_, mn, x.get(), n_, n_, y.get(), m_, m_,
                          count_);
    u = to_host<Runtime>(y.get(), count_ * m_);
    std::vector<S> conjugate(u.size());
    for (index b = 0; b < count_; ++b) {
      double sum = 0;
      for (index i = b * m_; i < (b + 1) * m_; ++i)
        sum += abs2(u[at(i)]);
      const double scale = sum > 0 ? 1 / std::sqrt(sum) : 0.0;
      for (index i = b * m_; i < (b + 1) * m_; ++i) {
        u[at(i)] *= scale;
        conjugate[at(i)] = conj_of(u[at(i)]);
      }
    }
    const auto turned = to_device<Runtime>(conjugate);
    Runtime::gemm_batched('N', 'N', n_, 1, m_, B_.get(), n_, mn, turned.get(), m_, m_, t.get(), n_,
                          n_, count_);
    z = to_host<Runtime>(t.get(), count_ * n_);
  }

  /// ||B - u z^T||^2 and ||B||^2 of each block.
  std::vector<rank_one::Squares> squares(const std::vector<S> &u, const std::vector<S> &z) const {
    const auto a = to_device<Runtime>(u), t = to_device<Runtime>(z);
    DeviceArray<Runtime, double> out(2 * count_ * m_);
    Runtime::for_each(count_ * m_, functors::RankOneSquares<S>{reals(B_.get()), reals(a.get()),
                                                               reals(t.get()), m_, n_, out.get()});
    const std::vector<double> rows = to_host<Runtime>(out.get(), 2 * count_ * m_);
    std::vector<rank_one::Squares> found(at(count_));
    for (index b = 0; b < count_; ++b) {
      found[at(b)].exponent = exponent(b);
      found[at(b)].finite = finite(b);
      for (index i = b * m_; i < (b + 1) * m_; ++i) {
        found[at(b)].residual2 += rows[at(2 * i)];
        found[at(b)].norm2 += rows[at(2 * i + 1)];
      }
    }
    return found;
  }

private:
  std::vector<double> largest_parts(const BlocksView<T> &F) const {
    DeviceArray<Runtime, double> out(count_ * m_);
    Runtime::for_each(count_ * m_, functors::LargestOfRows<T>{reals(F.data), F.block, F.rs, F.cs,
                                                              m_, n_, out.get()});
    const std::vector<double> rows = to_host<Runtime>(out.get(), count_ * m_);
    std::vector<double> largest;
    for (auto row = rows.begin(); row != rows.end(); row += m_)
      largest.push_back(*std::max_element(row, row + m_));
    return largest;
  }

  /// Of G_b (n x n, by rows); complex ones as real ones of twice the order.
  std::vector<S> leading_eigenvectors(const std::vector<S> &grams) const {
    constexpr index kUnit = 8;
    const index order = round_up(is_complex_v<S> ? 2 * n_ : n_, kUnit);
    std::vector<S> x(at(count_ * n_));
    threads::parallel_for(count_, [&](index b) {
      std::vector<double> G(at(order * order), 0.0), v(at(order), 0.0);
      for (index i = 0; i < n_; ++i)
        for (index j = 0; j < n_; ++j) {
          const S entry = grams[at((b * n_ + i) * n_ + j)];
          G[at(i * order + j)] = std::real(entry);
          if constexpr (is_complex_v<S>) {
            G[at((n_ + i) * order + n_ + j)] = entry.real();
            G[at((n_ + i) * order + j)] = entry.imag();
            G[at(i * order + n_ + j)] = -entry.imag();
          }
        }
      for (index i = 0; i < n_; ++i)
        v[at(i)] = rank_one::start_entry(i);
      rank_one::leading_eigenvector(G.data(), order, v.data());
      for (index i = 0; i < n_; ++i)
        if constexpr (is_complex_v<S>)
          x[at(b * n_ + i)] = {v[at(i)], v[at(n_ + i)]};
        else
          x[at(b * n_ + i)] = v[at(i)];
    });
    return x;
  }

  index count_, m_, n_;
  std::vector<bool> finite_;
  std::vector<int> exponent_; ///< even: B is the block times 2^-exponent
  DeviceArray<Runtime, S> B_;
};

} // namespace cuda_detail

template <class T, class Runtime>
void CudaKron<T, Runtime>::kron_solve(const std::vector<MatrixView<T>> &factors, const T *B,
                                      index columns, bool columns_first, T *X) {
  index left = columns_first ? columns : 1, right = columns_first ? 1 : columns;
  for (const MatrixView<T> &F : factors)
    right *= F.n;
  DeviceArray<Runtime, T> buffers[2];
  const T *source = B;
  for (std::size_t p = 0; p < factors.size(); ++p) {
    const MatrixView<T> &F = factors[p];
    const cuda_detail::LuBlocks<T, Runtime> lu(
        {F.data, 1, F.n, F.n, 0, F.rs, F.cs, F.conjugated},
        [&](index) { return "factors[" + std::to_string(p) + "]"; });
    T *target = X;
    if (p + 1 < factors.size()) {
      buffers[p % 2] = DeviceArray<Runtime, T>(left * right);
      target = buffers[p % 2].get();
    }
    right /= F.n;
    const cuda_detail::RowPlaces rows{F.n, 1};
    lu.solve(source, rows, target, rows, right, left);
    left *= F.n;
    source = target;
  }
}

template <class T, class Runtime>
void CudaKron<T, Runtime>::kron_solve_shifted(const std::vector<std::vector<real_t<T>>> &w,
                                              const std::vector<MatrixView<T>> &V, real_t<T> shift,
                                              const T *B, index columns, bool columns_first, T *X) {
  const std::vector<real_t<T>> values = shifted_eigenvalues(w, shift);
  const auto n = static_cast<index>(values.size());
  const auto divisors = to_device<Runtime>(values);
  std::vector<MatrixView<T>> adjoint;
  for (const MatrixView<T> &F : V)
    adjoint.push_back(F.adjoint());
  DeviceArray<Runtime, T> Y(n * columns);
  kron_multiply(adjoint, B, columns, columns_first, Y.get());
  Runtime::for_each(n * columns,
                    functors::DivideByValues<T>{reals(Y.get()), divisors.get(),
                                                columns_first ? n : columns, !columns_first});
  kron_multiply(V, Y.get(), columns, columns_first, X);
}

template <class T, class Runtime>
void CudaKron<T, Runtime>::rearrange(const MatrixView<T> &A, index n1, index m2, index n2, T *out) {
  Runtime::for_each(A.m * A.n,
                    functors::Rearrange<T>{reals(A.data), A.rs, A.cs, n1, m2, n2, reals(out)});
}

template <class T, class Runtime>
void CudaKron<T, Runtime>::monarch_solve(const BlocksView<T> &L, const BlocksView<T> &R,
                                         const MatrixView<T> &B, bool permuted, bool transpose,
                                         T *X) {
  using cuda_detail::MonarchStage;
  const auto stages = cuda_detail::monarch_stages(L, R, permuted, transpose);
  const auto factored = [&](const MonarchStage<T> &stage, char name) {
    return cuda_detail::LuBlocks<T, Runtime>(
        stage.F, [&](index b) { return name + ("[" + std::to_string(b) + "]"); });
  };
  const auto first = factored(stages.first, transpose ? 'L' : 'R');
  const auto second = factored(stages.second, transpose ? 'R' : 'L');
  const index columns = B.n;
  DeviceArray<Runtime, T> copy(B.m * columns), middle(B.m * columns);
  cuda_detail::copy_entries<T, Runtime>(B, real_t<T>(1), copy.get(), columns, 1);
  second.solve(copy.get(), stages.second.out, middle.get(), stages.second.in, columns,
               stages.second.F.count);
  first.solve(middle.get(), stages.first.out, X, stages.first.in, columns, stages.first.F.count);
}

template <class T, class Runtime>
double CudaKron<T, Runtime>::monarch_project(const MatrixView<T> &W, index k, index l,
                                             bool check_finite, T *L, T *R) {
  using S = wide_t<T>;
  const index s = W.m / l, p = W.n / k, m = std::max(s, p), n = std::min(s, p);
  const bool swapped = s < p;
  std::vector<T> left(at(l * s * k)), right(at(k * l * p));
  std::vector<rank_one::Squares> found;
  std::vector<S> u, z;
  for (index b = 0; b < k; ++b) {
    CancelScope::poll();
    const index rs = l * W.rs;
    const cuda_detail::RankOneBlocks<T, Runtime> blocks(
        {W.at(0, b * p), l, m, n, W.rs, swapped ? W.cs : rs, swapped ? rs : W.cs, W.conjugated});
    blocks.vectors(u, z);
    for (index j = 0; j < l; ++j) {
      std::vector<S> of_u(u.begin() + j * m, u.begin() + (j + 1) * m);
      std::vector<S> of_z(z.begin() + j * n, z.begin() + (j + 1) * n);
      rank_one::store<T>(of_u, of_z, swapped, blocks.exponent(j), {&left[at(j * s * k + b)], k},
                         {&right[at((b * l + j) * p)], 1});
      std::copy(of_u.begin(), of_u.end(), u.begin() + j * m);
      std::copy(of_z.begin(), of_z.end(), z.begin() + j * n);
    }
    const std::vector<rank_one::Squares> here = blocks.squares(u, z);
    found.insert(found.end(), here.begin(), here.end());
  }
  const double error = rank_one::relative_error(found);
  if (std::isnan(error)) {
    if (check_finite)
      throw ValueError("W contains NaN or Inf");
    constexpr auto nan = std::numeric_limits<real_t<T>>::quiet_NaN();
    std::fill(left.begin(), left.end(), T(nan));
    std::fill(right.begin(), right.end(), T(nan));
  }
  Runtime::to_device(L, left.data(), left.size() * sizeof(T));
  Runtime::to_device(R, right.data(), right.size() * sizeof(T));
  return error;
}

} // namespace lowla
