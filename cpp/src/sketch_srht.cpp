// The subsampled randomized Hadamard transform on the CPU.
//
// With j = 1024 high(j) + low(j) the transform is H(r, j) = H(high(r), high(j)) H(low(r), low(j)).
// A group of 1024 rows of A is loaded with the signs of D and transformed in the second-level
// cache. Few outputs (d up to about 1024 log2(p / 1024)) then collect their +-row of every group:
// A is read once and nothing of the length of A is stored, n c (10 + d / 1024) additions. For more
// outputs the groups are kept, 64 bytes of columns at a time, and transformed across as well: n c
// log2(p) additions, a work space of n x 64 bytes for each thread. Rows behind the last one of A
// are zero and never touched. S^T runs the same steps backwards.
#include "sketch_kinds.hpp"

#include "lowla/core/clones.hpp"

namespace lowla::sketches {
namespace {

constexpr int kGroupBits = 10;

#define LOWLA_SIGNED_COPY(R)                                                                       \
  LOWLA_CLONES void signed_copy(const R *from, R by, R *to, index n) {                             \
    for (index c = 0; c < n; ++c)                                                                  \
      to[c] = by * from[c];                                                                        \
  }
LOWLA_SIGNED_COPY(float)
LOWLA_SIGNED_COPY(double)
#undef LOWLA_SIGNED_COPY

/// The sampled rows of H, split into their low and high bits, and listed by low bits.
struct Sample {
  int bits;            ///< of the order p
  index group, across; ///< rows a group, p / group
  index groups;        ///< that hold rows of A
  std::vector<std::uint32_t> low, start, order;
  std::vector<std::uint64_t> high;

  explicit Sample(const SketchSpec &spec)
      : bits(spec.log2_order()), group(index(1) << std::min(bits, kGroupBits)),
        across((index(1) << bits) / group), groups((spec.n + group - 1) / group),
        low(static_cast<std::size_t>(spec.d)), start(static_cast<std::size_t>(group) + 1),
        order(low.size()), high(low.size()) {
    for (std::size_t i = 0; i < low.size(); ++i) {
      const std::uint64_t r =
          philox::permuted(spec.key, i & ((std::uint64_t(1) << bits) - 1), bits);
      low[i] = static_cast<std::uint32_t>(r & static_cast<std::uint64_t>(group - 1));
      high[i] = r / static_cast<std::uint64_t>(group);
      ++start[low[i] + 1];
    }
    for (std::size_t b = 1; b < start.size(); ++b)
      start[b] += start[b - 1];
    std::vector<std::uint32_t> place(start.begin(), start.end() - 1);
    for (std::size_t i = 0; i < low.size(); ++i)
      order[place[low[i]]++] = static_cast<std::uint32_t>(i);
  }

  /// Whether transforming across the groups costs less than collecting each output from them.
  bool many() const {
    return across > 1 && static_cast<index>(low.size()) > group * (bits - kGroupBits);
  }
};

/// The signs of D for the rows of a group.
template <class R> void diagonal(const SketchSpec &spec, index first, index rows, R *out) {
  for (index j = 0; j < rows; ++j)
    out[j] = static_cast<R>(
        philox::sign(spec.key, philox::kStreamDiagonal, static_cast<std::uint64_t>(first + j), 0));
}

/// An odd number of cache lines, so that rows a power of two apart do not share their sets.
template <class R> index padded(index width) {
  constexpr index kUnit = simd::panel_unit<R>;
  return ((width + kUnit - 1) / kUnit | 1) * kUnit;
}

/// X (group x ld, width columns used, the rest of the line zero) = rows of D A.
template <class T>
void load_group(const SketchSpec &spec, const RealRows<T> &source, index first, index group,
                index c0, index width, real_t<T> *X, index ld) {
  using R = real_t<T>;
  const index rows = std::min(group, spec.n - first);
  R sign[index(1) << kGroupBits];
  diagonal(spec, first, rows, sign);
  if (!source.direct())
    source.pack(first, rows, c0, c0 + width, X, ld);
  const index used = round_up(width, simd::panel_unit<R>);
  for (index r = 0; r < rows; ++r) {
    signed_copy(source.direct() ? source.at(first + r, c0) : X + r * ld, sign[r], X + r * ld,
                width);
    std::fill(X + r * ld + width, X + r * ld + used, R(0));
  }
  for (index r = rows; r < group; ++r)
    std::fill(X + r * ld, X + r * ld + used, R(0));
}

/// Rows of the result from a group: D X times the scale.
template <class R>
void store_group(const SketchSpec &spec, const R *X, index ld, index first, index group, index c0,
                 index width, R *out, index ldo) {
  const index rows = std::min(group, spec.n - first);
  const R factor = static_cast<R>(spec.scale());
  R sign[index(1) << kGroupBits];
  diagonal(spec, first, rows, sign);
  for (index r = 0; r < rows; ++r)
    signed_copy(X + r * ld, factor * sign[r], out + (first + r) * ldo + c0, width);
}

template <class R> constexpr index kLine = simd::panel_unit<R>;

/// Each output collects its rows of the transformed groups.
template <class T>
void collect(const SketchSpec &spec, const Sample &sample, const RealRows<T> &source,
             real_t<T> *result) {
  using R = real_t<T>;
  const index ldo = source.columns(), size = spec.d * ldo;
  const Slabs slabs(ldo, std::clamp<index>((index(3) << 19) / (sample.group + spec.d), 128, 1024),
                    sizeof(R));
  // Few columns: groups too are split, by a rule that knows nothing of threads.
  const index lines = (ldo + kLine<R> - 1) / kLine<R>;
  const index parts = std::max<index>(1, std::min(sample.groups / 8, 16 / lines));
  Buffer<R> partial((parts - 1) * size);
  std::vector<std::uint32_t> one_each(static_cast<std::size_t>(spec.d) + 1);
  for (std::size_t i = 0; i < one_each.size(); ++i)
    one_each[i] = static_cast<std::uint32_t>(i);
  std::fill(result, result + size, R(0));
  std::fill(partial.get(), partial.get() + (parts - 1) * size, R(0));
  // A few groups of each part at a time, so that an interrupt need not wait for all.
  constexpr index kGroupsAtOnce = 256;
  const index longest = (sample.groups + parts - 1) / parts;
  for (index g0 = 0; g0 < longest; g0 += kGroupsAtOnce)
    parallel_for(slabs.count * parts, [&](index task) {
      const index part = task % parts, c0 = slabs.first(task / parts);
      const index width = slabs.last(task / parts) - c0, ld = padded<R>(width);
      R *sums = (part == 0 ? result : partial.get() + (part - 1) * size) + c0;
      Buffer<R> X(sample.group * ld);
      std::vector<std::uint32_t> entry(static_cast<std::size_t>(spec.d));
      const index begin = part * sample.groups / parts + g0;
      const index end = std::min((part + 1) * sample.groups / parts, begin + kGroupsAtOnce);
      for (index g = begin; g < end; ++g) {
        load_group(spec, source, g * sample.group, sample.group, c0, width, X.get(), ld);
        simd::sketching<R>().hadamard(X.get(), ld, sample.group, round_up(width, kLine<R>));
        for (std::size_t i = 0; i < entry.size(); ++i)
          entry[i] = (sample.low[i] << 1) |
                     (odd_bits(sample.high[i] & static_cast<std::uint64_t>(g)) ? 1u : 0u);
        simd::sketching<R>().gather(X.get(), ld, width, one_each.data(), entry.data(), 0, spec.d,
                                    sums, ldo);
      }
    });
  for (index part = 1; part < parts; ++part)
    for (index k = 0; k < size; ++k)
      result[k] += partial.get()[(part - 1) * size + k];
  scale_rows(result, spec.d, ldo, spec.scale());
}

/// The whole transform, a cache line of columns at a time.
template <class T>
void transform(const SketchSpec &spec, const Sample &sample, const RealRows<T> &source,
               real_t<T> *result) {
  using R = real_t<T>;
  const index columns = source.columns(), rows = sample.groups * sample.group;
  const R factor = static_cast<R>(spec.scale());
  parallel_for((columns + kLine<R> - 1) / kLine<R>, [&](index block) {
    const index c0 = block * kLine<R>, width = std::min(kLine<R>, columns - c0);
    Buffer<R> X(rows * kLine<R>), Y(sample.across * kLine<R>);
    for (index g = 0; g < sample.groups; ++g) {
      R *group = X.get() + g * sample.group * kLine<R>;
      load_group(spec, source, g * sample.group, sample.group, c0, width, group, kLine<R>);
      simd::sketching<R>().hadamard(group, kLine<R>, sample.group, kLine<R>);
    }
    for (index b = 0; b < sample.group; ++b) {
      if (sample.start[b] == sample.start[b + 1])
        continue;
      for (index g = 0; g < sample.groups; ++g)
        std::copy_n(X.get() + (g * sample.group + b) * kLine<R>, kLine<R>, Y.get() + g * kLine<R>);
      std::fill(Y.get() + sample.groups * kLine<R>, Y.get() + sample.across * kLine<R>, R(0));
      simd::sketching<R>().hadamard(Y.get(), kLine<R>, sample.across, kLine<R>);
      for (std::uint32_t k = sample.start[b]; k < sample.start[b + 1]; ++k) {
        const index i = sample.order[k];
        const R *y = Y.get() + static_cast<index>(sample.high[i]) * kLine<R>;
        for (index c = 0; c < width; ++c)
          result[i * columns + c0 + c] = factor * y[c];
      }
    }
  });
}

template <class T>
void spread(const SketchSpec &spec, const Sample &sample, const ContiguousRows<T> &Y, index columns,
            real_t<T> *result) {
  using R = real_t<T>;
  const Slabs slabs(
      columns, std::clamp<index>((index(3) << 19) / (sample.group + spec.d), 128, 1024), sizeof(R));
  parallel_for(slabs.count * sample.groups, [&](index task) {
    const index g = task % sample.groups, c0 = slabs.first(task / sample.groups);
    const index width = slabs.last(task / sample.groups) - c0, ld = padded<R>(width);
    Buffer<R> X(sample.group * ld);
    std::fill(X.get(), X.get() + sample.group * ld, R(0));
    std::vector<std::uint32_t> entry(static_cast<std::size_t>(spec.d));
    for (std::size_t k = 0; k < entry.size(); ++k) {
      const std::uint32_t i = sample.order[k];
      entry[k] = (i << 1) | (odd_bits(sample.high[i] & static_cast<std::uint64_t>(g)) ? 1u : 0u);
    }
    simd::sketching<R>().gather(Y.data + c0, Y.stride, width, sample.start.data(), entry.data(), 0,
                                sample.group, X.get(), ld);
    simd::sketching<R>().hadamard(X.get(), ld, sample.group, round_up(width, kLine<R>));
    store_group(spec, X.get(), ld, g * sample.group, sample.group, c0, width, result, columns);
  });
}

template <class T>
void transform_back(const SketchSpec &spec, const Sample &sample, const ContiguousRows<T> &Y,
                    index columns, real_t<T> *result) {
  using R = real_t<T>;
  parallel_for((columns + kLine<R> - 1) / kLine<R>, [&](index block) {
    const index c0 = block * kLine<R>, width = std::min(kLine<R>, columns - c0);
    Buffer<R> X(sample.groups * sample.group * kLine<R>), Z(sample.across * kLine<R>);
    for (index b = 0; b < sample.group; ++b) {
      std::fill(Z.get(), Z.get() + sample.across * kLine<R>, R(0));
      for (std::uint32_t k = sample.start[b]; k < sample.start[b + 1]; ++k) {
        const index i = sample.order[k];
        R *z = Z.get() + static_cast<index>(sample.high[i]) * kLine<R>;
        for (index c = 0; c < width; ++c)
          z[c] += Y.data[i * Y.stride + c0 + c];
      }
      simd::sketching<R>().hadamard(Z.get(), kLine<R>, sample.across, kLine<R>);
      for (index g = 0; g < sample.groups; ++g)
        std::copy_n(Z.get() + g * kLine<R>, kLine<R>, X.get() + (g * sample.group + b) * kLine<R>);
    }
    for (index g = 0; g < sample.groups; ++g) {
      R *group = X.get() + g * sample.group * kLine<R>;
      simd::sketching<R>().hadamard(group, kLine<R>, sample.group, kLine<R>);
      store_group(spec, group, kLine<R>, g * sample.group, sample.group, c0, width, result,
                  columns);
    }
  });
}

} // namespace

template <class T> void srht_times(const SketchSpec &spec, MatrixView<T> A, T *out) {
  const Sample sample(spec);
  const RealRows<T> source{A};
  auto *result = reinterpret_cast<real_t<T> *>(out);
  if (sample.many())
    transform(spec, sample, source, result);
  else
    collect(spec, sample, source, result);
}

template <class T> void srht_adjoint_times(const SketchSpec &spec, MatrixView<T> A, T *out) {
  const Sample sample(spec);
  const RealRows<T> source{A};
  const ContiguousRows<T> Y(source);
  auto *result = reinterpret_cast<real_t<T> *>(out);
  if (sample.many())
    transform_back(spec, sample, Y, source.columns(), result);
  else
    spread(spec, sample, Y, source.columns(), result);
}

#define LOWLA_INSTANTIATE(T)                                                                       \
  template void srht_times(const SketchSpec &, MatrixView<T>, T *);                                \
  template void srht_adjoint_times(const SketchSpec &, MatrixView<T>, T *);
LOWLA_FOR_SCALARS(LOWLA_INSTANTIATE)
#undef LOWLA_INSTANTIATE

} // namespace lowla::sketches
