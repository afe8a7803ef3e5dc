// Scores of the rows of a matrix in main memory, and sampling by scores (see scores.hpp).
#include "host_scored.hpp"

#include "lowla/core/clones.hpp"
#include "lowla/core/philox.hpp"

namespace lowla {
namespace rows {

LOWLA_CLONES void add_squares(const double *X, index rows, index cols, double *out) {
  for (index i = 0; i < rows; ++i) {
    double sum[8] = {};
    for (index j = 0; j < cols; j += 8) // whole panel units
      for (index lane = 0; lane < 8; ++lane)
        sum[lane] += X[i * cols + j + lane] * X[i * cols + j + lane];
    out[i] += ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
  }
}

} // namespace rows

using rows::CsrRows;
using rows::DenseRows;
using rows::HostScored;

SampledRows sample_rows(const std::vector<double> &scores, index n_samples, double p,
                        std::uint64_t key) {
  std::vector<double> cumulative(scores.size());
  double total = 0;
  index last = -1;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    total += scores[i];
    cumulative[i] = total;
    if (scores[i] != 0)
      last = static_cast<index>(i);
  }
  if (last < 0)
    throw ValueError("scores must not all be zero");
  SampledRows sample;
  sample.rows.reserve(static_cast<std::size_t>(n_samples));
  sample.weights.reserve(static_cast<std::size_t>(n_samples));
  const auto count = static_cast<double>(n_samples);
  for (index j = 0; j < n_samples; ++j) {
    const double point =
        (static_cast<double>(j) + philox::uniform(key, philox::kStreamRows, 0, j)) / count;
    const auto above = std::upper_bound(cumulative.begin(), cumulative.end(), point * total);
    const index row = std::min(static_cast<index>(above - cumulative.begin()), last);
    sample.rows.push_back(row);
    sample.weights.push_back(
        std::pow(count * (scores[static_cast<std::size_t>(row)] / total), -1.0 / p));
  }
  return sample;
}

template <class T> std::unique_ptr<ScoredMatrix<T>> scored(MatrixView<T> A) {
  return std::make_unique<HostScored<DenseRows<T>>>(DenseRows<T>(A));
}

template <class T, class I> std::unique_ptr<ScoredMatrix<T>> scored(CsrView<T, I> A) {
  return std::make_unique<HostScored<CsrRows<T, I>>>(CsrRows<T, I>(A));
}

#define LOWLA_INSTANTIATE(T)                                                                       \
  template std::unique_ptr<ScoredMatrix<T>> scored(MatrixView<T>);                                 \
  template std::unique_ptr<ScoredMatrix<T>> scored(CsrView<T, std::int32_t>);                      \
  template std::unique_ptr<ScoredMatrix<T>> scored(CsrView<T, std::int64_t>);                      \
  template class RowScores<T>;
LOWLA_INSTANTIATE(float)
LOWLA_INSTANTIATE(double)
LOWLA_INSTANTIATE(std::complex<float>)
LOWLA_INSTANTIATE(std::complex<double>)
#undef LOWLA_INSTANTIATE

} // namespace lowla
