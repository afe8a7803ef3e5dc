// Log-sum-exp and softmax along lines of an array, as functors.
//
// A thread keeps the sum of the exponentials it has seen as total exp(top): where a larger exponent
// comes the total is scaled (Milakov, Gimelshein 2018, "Online normalizer calculation for softmax",
// arXiv:1805.02867), so that X is read once for the sum, and once more for softmax. Pairs of the
// threads are merged by a fixed tree, those of the spans of a line in their order.
#pragma once

#include "lowla/device/runtime.hpp"

#include <cmath>

namespace lowla {

/// `count` lines of n numbers `stride` apart; line l begins where its places along the axes say.
template <class S> struct Lines {
  static constexpr int kAxes = 6;
  const S *X;
  index count, n, stride;
  int axes;
  index sizes[kAxes], strides[kAxes]; ///< the last one varies fastest

  LOWLA_HD const S *line(index l) const {
    const S *out = X;
    for (int axis = axes - 1; axis >= 0; --axis) {
      out += l % sizes[axis] * strides[axis];
      l /= sizes[axis];
    }
    return out;
  }
  /// Whether neighbouring lines lie closer together than the numbers of a line.
  bool across() const {
    const auto distance = [](index step) { return step < 0 ? -step : step; };
    return axes > 0 && n > 1 && distance(strides[axes - 1]) < distance(stride);
  }
};

} // namespace lowla

namespace lowla::functors {

/// total exp(top); NaN is kept in the total.
struct ExponentSum {
  double top, total;

  LOWLA_HD void add(const ExponentSum &other) {
    if (total != total || other.total != other.total) {
      total = total != total ? total : other.total;
      return;
    }
    if (other.top == -HUGE_VAL)
      return;
    if (other.top > top) {
      total = top == -HUGE_VAL || other.top == HUGE_VAL ? 0.0 : total * exp(top - other.top);
      top = other.top;
    }
    total = top == HUGE_VAL ? 1.0 : total + other.total * exp(other.top - top);
  }

  template <int K> LOWLA_HD void add(const double (&x)[K]) {
    double highest = -HUGE_VAL;
    for (int k = 0; k < K; ++k) {
      highest = x[k] > highest ? x[k] : highest;
      total = x[k] != x[k] ? x[k] : total;
    }
    if (total != total || highest == -HUGE_VAL)
      return;
    if (highest > top) {
      total = top == -HUGE_VAL || highest == HUGE_VAL ? 0.0 : total * exp(top - highest);
      top = highest;
    }
    if (top == HUGE_VAL) {
      total = 1.0;
      return;
    }
    for (int k = 0; k < K; ++k)
      total += exp(x[k] - top);
  }
};

/// The sum of each span of each line, (count, spans). A block takes 256 / `lanes` lines.
template <class S> struct SumLines {
  static constexpr std::size_t kShared = kBlockThreads * sizeof(ExponentSum);
  static constexpr int kTogether = 4, kFew = 16;
  Lines<S> lines;
  index spans, span;
  int lanes; ///< threads of a line, a power of 2
  bool across;
  ExponentSum *out;

  LOWLA_HD int phases() const { return 3; }
  LOWLA_HD void operator()(int phase, index block, int thread, void *shared) const {
    const int height = kBlockThreads / lanes;
    const int own = across ? thread % height : thread / lanes;
    const int lane = across ? thread / height : thread % lanes;
    const index line = block / spans * height + own, s = block % spans;
    if (line >= lines.count)
      return;
    auto *sums = static_cast<ExponentSum *>(shared) + own * lanes;
    const int few = lanes < kFew ? lanes : kFew;
    if (phase == 0) {
      sums[lane] = sum(lines.line(line), s * span + lane, least(lines.n, (s + 1) * span));
    } else if (phase == 1 && lane < few) {
      for (int k = lane + few; k < lanes; k += few)
        sums[lane].add(sums[k]);
    } else if (phase == 2 && lane == 0) {
      for (int k = 1; k < few; ++k)
        sums[0].add(sums[k]);
      out[line * spans + s] = sums[0];
    }
  }

private:
  LOWLA_HD static index least(index x, index y) { return x < y ? x : y; }
  LOWLA_HD ExponentSum sum(const S *line, index first, index last) const {
    ExponentSum out{-HUGE_VAL, 0.0};
    for (index j = first; j < last; j += index(kTogether) * lanes) {
      double x[kTogether];
      for (int k = 0; k < kTogether; ++k) {
        const index at = j + index(k) * lanes;
        x[k] = at < last ? static_cast<double>(line[at * lines.stride]) : -HUGE_VAL;
      }
      out.add(x);
    }
    return out;
  }
};

/// The sums of the spans of a line, in the first of them.
struct FoldSpans {
  index spans;
  ExponentSum *sums; ///< (count, spans)
  LOWLA_HD void operator()(index line) const {
    for (index s = 1; s < spans; ++s)
      sums[line * spans].add(sums[line * spans + s]);
  }
};

template <class S> struct LogSums {
  const ExponentSum *sums;
  index spans;
  S *out;
  LOWLA_HD void operator()(index line) const {
    const ExponentSum sum = sums[line * spans];
    out[line] = static_cast<S>(sum.total == 0.0 ? -HUGE_VAL : sum.top + log(sum.total));
  }
};

/// exp(X - top) / total, the lines one after another or (`across`) side by side; as SciPy has it,
/// NaN along a line with +inf, NaN, or nothing but -inf.
template <class S> struct Shares {
  static constexpr double kLeastNormal = -708.396; ///< exponentials below it are denormal: 0
  Lines<S> lines;
  const ExponentSum *sums;
  index spans;
  bool across;
  S nan;
  S *out;
  LOWLA_HD void operator()(index task) const {
    const index line = across ? task % lines.count : task / lines.n;
    const index j = across ? task / lines.count : task % lines.n;
    const ExponentSum sum = sums[line * spans];
    if (!(sum.total > 0.0) || sum.top == HUGE_VAL) {
      out[task] = nan;
      return;
    }
    const double x = static_cast<double>(lines.line(line)[j * lines.stride]) - sum.top;
    out[task] = static_cast<S>(x > kLeastNormal ? exp(x) / sum.total : 0.0);
  }
};

} // namespace lowla::functors
