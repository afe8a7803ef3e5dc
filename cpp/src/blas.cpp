// The table of BLAS and LAPACK pointers and the typed calls through it (see core/blas.hpp).
#include "lowla/core/blas.hpp"

#include <array>
#include <atomic>
#include <cmath>
#include <numeric>

namespace lowla::blas {
namespace {

struct Table {
  std::array<std::array<void *, 4>, kRoutineCount> functions{};
  int integer_bytes = 0;
};
Table g_table;
std::atomic<bool> g_loaded{false};

int type_slot(char type) {
  switch (type) {
  case 's':
    return 0;
  case 'd':
    return 1;
  case 'c':
    return 2;
  case 'z':
    return 3;
  default:
    throw ValueError(std::string("unknown BLAS type letter ") + type);
  }
}

template <class S> constexpr int slot_of() {
  if constexpr (std::is_same_v<S, float>)
    return 0;
  else if constexpr (std::is_same_v<S, double>)
    return 1;
  else if constexpr (std::is_same_v<S, std::complex<float>>)
    return 2;
  else
    return 3;
}

template <class S, class F> F *function(Routine routine) {
  void *found = g_table.functions[routine][slot_of<S>()];
  if (found == nullptr)
    throw Error("SciPy's BLAS is not loaded: " + routine_name(routine, 'd'));
  return reinterpret_cast<F *>(found);
}

/// Call f(Int{}) with the BLAS integer type.
template <class F> auto with_integer(F &&f) {
  return g_table.integer_bytes == 8 ? f(std::int64_t{}) : f(std::int32_t{});
}

template <class S>
void gemm_as(char op_a, char op_b, index m, index n, index k, S alpha, const S *A, index lda,
             const S *B, index ldb, S beta, S *C, index ldc) {
  with_integer([&](auto zero) {
    using Int = decltype(zero);
    Int mi = narrow<Int>(m), ni = narrow<Int>(n), ki = narrow<Int>(k), ai = narrow<Int>(lda),
        bi = narrow<Int>(ldb), ci = narrow<Int>(ldc);
    using F =
        void(char *, char *, Int *, Int *, Int *, S *, S *, Int *, S *, Int *, S *, S *, Int *);
    function<S, F>(kGemm)(&op_a, &op_b, &mi, &ni, &ki, &alpha, const_cast<S *>(A), &ai,
                          const_cast<S *>(B), &bi, &beta, C, &ci);
  });
}

/// job 'S': A becomes U, W the right vectors; 'N': the values alone.
template <class S>
void gesdd_as(char job, index m, index n, Small<S> &A, std::vector<double> &s, Small<S> &W) {
  with_integer([&](auto zero) {
    using Int = decltype(zero);
    Int mi = narrow<Int>(m), ni = narrow<Int>(n), info = 0, lwork = -1;
    const index wanted = job == 'S' ? n : 0;
    Small<S> U(wanted > 0 ? m : 1, std::max<index>(1, wanted)),
        Wh(std::max<index>(1, wanted), std::max<index>(1, wanted));
    Int ldu = narrow<Int>(U.rows), ldw = narrow<Int>(Wh.rows);
    s.assign(static_cast<std::size_t>(n), 0.0);
    std::vector<Int> iwork(static_cast<std::size_t>(8 * n));
    S query{};
    auto call = [&](S *work, double *rwork) {
      if constexpr (is_complex_v<S>) {
        using F = void(char *, Int *, Int *, S *, Int *, double *, S *, Int *, S *, Int *, S *,
                       Int *, double *, Int *, Int *);
        function<S, F>(kGesdd)(&job, &mi, &ni, A.data.data(), &mi, s.data(), U.data.data(), &ldu,
                               Wh.data.data(), &ldw, work, &lwork, rwork, iwork.data(), &info);
      } else {
        (void)rwork;
        using F = void(char *, Int *, Int *, S *, Int *, S *, S *, Int *, S *, Int *, S *, Int *,
                       Int *, Int *);
        function<S, F>(kGesdd)(&job, &mi, &ni, A.data.data(), &mi, s.data(), U.data.data(), &ldu,
                               Wh.data.data(), &ldw, work, &lwork, iwork.data(), &info);
      }
    };
    std::vector<double> rwork(static_cast<std::size_t>(
        is_complex_v<S> ? std::max(5 * n * n + 7 * n, 2 * m * n + 3 * n * n) : 0));
    call(&query, rwork.data());
    lwork = narrow<Int>(static_cast<index>(real_of(query)));
    std::vector<S> work(static_cast<std::size_t>(lwork));
    call(work.data(), rwork.data());
    if (info != 0)
      throw LinAlgError("LAPACK gesdd did not converge");
    if (job == 'S') {
      W = small::adjoint(Wh);
      A = std::move(U);
    }
  });
}

} // namespace

std::string routine_name(Routine routine, char type) {
  const bool complex = type == 'c' || type == 'z';
  const char *stem[kRoutineCount] = {"gemm",
                                     "trsm",
                                     complex ? "herk" : "syrk",
                                     "potrf",
                                     complex ? "heevd" : "syevd",
                                     "gesdd",
                                     "geqrf",
                                     "trtri",
                                     "getrf"};
  return type + std::string(stem[routine]);
}

void install(Routine routine, char type, void *function, int integer_bytes) {
  if (integer_bytes != 4 && integer_bytes != 8)
    throw ValueError("BLAS integers must have 4 or 8 bytes");
  g_table.functions[routine][type_slot(type)] = function;
  g_table.integer_bytes = integer_bytes;
  bool complete = true;
  for (const auto &types : g_table.functions)
    for (const void *f : types)
      complete = complete && f != nullptr;
  g_loaded.store(complete);
}

bool loaded() { return g_loaded.load(); }
int integer_bytes() { return g_table.integer_bytes; }

void gemm(char op_a, char op_b, index m, index n, index k, float alpha, const float *A, index lda,
          const float *B, index ldb, float beta, float *C, index ldc) {
  gemm_as(op_a, op_b, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc);
}
void gemm(char op_a, char op_b, index m, index n, index k, double alpha, const double *A, index lda,
          const double *B, index ldb, double beta, double *C, index ldc) {
  gemm_as(op_a, op_b, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc);
}
void gemm(char op_a, char op_b, index m, index n, index k, std::complex<float> alpha,
          const std::complex<float> *A, index lda, const std::complex<float> *B, index ldb,
          std::complex<float> beta, std::complex<float> *C, index ldc) {
  gemm_as(op_a, op_b, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc);
}
void gemm(char op_a, char op_b, index m, index n, index k, std::complex<double> alpha,
          const std::complex<double> *A, index lda, const std::complex<double> *B, index ldb,
          std::complex<double> beta, std::complex<double> *C, index ldc) {
  gemm_as(op_a, op_b, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc);
}

template <class S> void solve_transposed(index n, index r, const S *R, index ldr, S *B, index ldb) {
  with_integer([&](auto zero) {
    using Int = decltype(zero);
    using F = void(char *, char *, char *, char *, Int *, Int *, S *, S *, Int *, S *, Int *);
    Int ni = narrow<Int>(n), ri = narrow<Int>(r), lr = narrow<Int>(ldr), lb = narrow<Int>(ldb);
    char side = 'L', uplo = 'U', op = 'T', diagonal = 'N';
    S one(1);
    function<S, F>(kTrsm)(&side, &uplo, &op, &diagonal, &ni, &ri, &one, const_cast<S *>(R), &lr, B,
                          &lb);
  });
}

template <class S> void add_gram(index n, index k, const S *A, index lda, S *C, index ldc) {
  with_integer([&](auto zero) {
    using Int = decltype(zero);
    using R = real_t<S>;
    using F = void(char *, char *, Int *, Int *, R *, S *, Int *, R *, S *, Int *);
    Int ni = narrow<Int>(n), ki = narrow<Int>(k), ai = narrow<Int>(lda), ci = narrow<Int>(ldc);
    char uplo = 'U', op = 'N';
    R one(1);
    function<S, F>(kHerk)(&uplo, &op, &ni, &ki, &one, const_cast<S *>(A), &ai, &one, C, &ci);
  });
}

template <class S> bool potrf(index n, S *A, index lda) {
  return with_integer([&](auto zero) {
    using Int = decltype(zero);
    using F = void(char *, Int *, S *, Int *, Int *);
    Int ni = narrow<Int>(n), li = narrow<Int>(lda), info = 0;
    char uplo = 'U';
    function<S, F>(kPotrf)(&uplo, &ni, A, &li, &info);
    return info == 0;
  });
}

template <class S> void heevd(index n, S *A, real_t<S> *w) {
  with_integer([&](auto zero) {
    using Int = decltype(zero);
    using R = real_t<S>;
    Int ni = narrow<Int>(n), lwork = -1, lrwork = -1, liwork = -1, info = 0;
    char job = 'V', uplo = 'U';
    S work_size{};
    R rwork_size{};
    Int iwork_size = 0;
    auto call = [&](S *work, R *rwork, Int *iwork) {
      if constexpr (is_complex_v<S>) {
        using F = void(char *, char *, Int *, S *, Int *, R *, S *, Int *, R *, Int *, Int *, Int *,
                       Int *);
        function<S, F>(kHeevd)(&job, &uplo, &ni, A, &ni, w, work, &lwork, rwork, &lrwork, iwork,
                               &liwork, &info);
      } else {
        (void)rwork;
        using F = void(char *, char *, Int *, S *, Int *, S *, S *, Int *, Int *, Int *, Int *);
        function<S, F>(kHeevd)(&job, &uplo, &ni, A, &ni, w, work, &lwork, iwork, &liwork, &info);
      }
    };
    call(&work_size, &rwork_size, &iwork_size);
    lwork = narrow<Int>(static_cast<index>(std::real(work_size)));
    lrwork = narrow<Int>(static_cast<index>(rwork_size));
    liwork = iwork_size;
    std::vector<S> work(static_cast<std::size_t>(lwork));
    std::vector<R> rwork(static_cast<std::size_t>(lrwork) + 1);
    std::vector<Int> iwork(static_cast<std::size_t>(liwork));
    call(work.data(), rwork.data(), iwork.data());
    if (info != 0)
      throw LinAlgError("LAPACK syevd did not converge");
  });
}

void gesdd(index m, index n, Small<double> &A, std::vector<double> &s, Small<double> &W) {
  gesdd_as('S', m, n, A, s, W);
}
void gesdd(index m, index n, Small<std::complex<double>> &A, std::vector<double> &s,
           Small<std::complex<double>> &W) {
  gesdd_as('S', m, n, A, s, W);
}

template <class S> Small<S> product(char op_a, const Small<S> &A, char op_b, const Small<S> &B) {
  const index m = op_a == 'N' ? A.rows : A.cols, k = op_a == 'N' ? A.cols : A.rows;
  Small<S> C(m, op_b == 'N' ? B.cols : B.rows);
  if (C.rows > 0 && C.cols > 0 && k > 0)
    gemm(op_a, op_b, m, C.cols, k, S(1), A.data.data(), A.rows, B.data.data(), B.rows, S(0),
         C.data.data(), m);
  return C;
}

template <class S> bool cholesky(Small<S> &G) {
  const index n = G.rows;
  if (!potrf(n, G.data.data(), n))
    return false;
  for (index j = 0; j < n; ++j)
    std::fill(G.col(j) + j + 1, G.col(j) + n, S(0));
  return true;
}

template <class S> void triangle(Small<S> &A) {
  const index m = A.rows, n = A.cols, k = std::min(m, n);
  with_integer([&](auto zero) {
    using Int = decltype(zero);
    using F = void(Int *, Int *, S *, Int *, S *, S *, Int *, Int *);
    Int mi = narrow<Int>(m), ni = narrow<Int>(n), lwork = -1, info = 0;
    std::vector<S> tau(static_cast<std::size_t>(k));
    S size{};
    function<S, F>(kGeqrf)(&mi, &ni, A.data.data(), &mi, tau.data(), &size, &lwork, &info);
    lwork = narrow<Int>(static_cast<index>(real_of(size)));
    std::vector<S> work(static_cast<std::size_t>(lwork));
    function<S, F>(kGeqrf)(&mi, &ni, A.data.data(), &mi, tau.data(), work.data(), &lwork, &info);
  });
  Small<S> R(k, n);
  for (index j = 0; j < n; ++j)
    std::copy(A.col(j), A.col(j) + std::min(k, j + 1), R.col(j));
  A = std::move(R);
}

template <class S> bool invert_upper(Small<S> &R) {
  return with_integer([&](auto zero) {
    using Int = decltype(zero);
    using F = void(char *, char *, Int *, S *, Int *, Int *);
    Int ni = narrow<Int>(R.rows), info = 0;
    char uplo = 'U', diagonal = 'N';
    function<S, F>(kTrtri)(&uplo, &diagonal, &ni, R.data.data(), &ni, &info);
    return info == 0;
  });
}

template <class S> Lu<S> lu(Small<S> A) {
  std::vector<index> rows(static_cast<std::size_t>(A.rows));
  std::iota(rows.begin(), rows.end(), index(0));
  with_integer([&](auto zero) {
    using Int = decltype(zero);
    using F = void(Int *, Int *, S *, Int *, Int *, Int *);
    Int ni = narrow<Int>(A.rows), info = 0;
    std::vector<Int> swaps(rows.size());
    function<S, F>(kGetrf)(&ni, &ni, A.data.data(), &ni, swaps.data(), &info);
    for (std::size_t i = 0; i < rows.size(); ++i)
      std::swap(rows[i], rows[static_cast<std::size_t>(swaps[i] - 1)]);
  });
  return {std::move(A), std::move(rows)};
}

template <class S> double inverse_norm1(const Lu<S> &A) {
  const index n = A.factors.rows;
  Small<S> U = A.factors, Lt = Small<S>::identity(n); // L^T
  for (index j = 0; j < n; ++j)
    for (index i = j + 1; i < n; ++i) {
      U(i, j) = S(0);
      Lt(j, i) = A.factors(i, j);
    }
  if (!invert_upper(U))
    return std::numeric_limits<double>::infinity();
  invert_upper(Lt);
  const Small<S> inverse = product('N', U, 'T', Lt); // but for the order of its columns
  double norm = 0;
  for (index j = 0; j < n; ++j) {
    double sum = 0;
    for (index i = 0; i < n; ++i)
      sum += std::abs(inverse(i, j));
    norm = sum > norm || std::isnan(sum) ? sum : norm;
  }
  return norm;
}

template <class S> std::vector<double> singular_values(Small<S> A) {
  std::vector<double> s;
  Small<S> none;
  gesdd_as('N', A.rows, A.cols, A, s, none);
  return s;
}

#define LOWLA_INSTANTIATE(S)                                                                       \
  template Small<S> product(char, const Small<S> &, char, const Small<S> &);                       \
  template void solve_transposed(index, index, const S *, index, S *, index);                      \
  template void add_gram(index, index, const S *, index, S *, index);                              \
  template bool cholesky(Small<S> &);                                                              \
  template void triangle(Small<S> &);                                                              \
  template bool invert_upper(Small<S> &);                                                          \
  template Lu<S> lu(Small<S>);                                                                     \
  template double inverse_norm1(const Lu<S> &);                                                    \
  template std::vector<double> singular_values(Small<S>);
LOWLA_INSTANTIATE(double)
LOWLA_INSTANTIATE(std::complex<double>)
#undef LOWLA_INSTANTIATE

#define LOWLA_INSTANTIATE(S)                                                                       \
  template bool potrf(index, S *, index);                                                          \
  template void heevd(index, S *, real_t<S> *);
LOWLA_INSTANTIATE(float)
LOWLA_INSTANTIATE(double)
LOWLA_INSTANTIATE(std::complex<float>)
LOWLA_INSTANTIATE(std::complex<double>)
#undef LOWLA_INSTANTIATE

} // namespace lowla::blas
