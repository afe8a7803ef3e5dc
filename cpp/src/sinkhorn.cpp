// The annealed Sinkhorn-Newton iteration (see sinkhorn.hpp), written over the passes of a
// TransportCost.
#include "lowla/sinkhorn.hpp"

#include "lowla/core/error.hpp"
#include "lowla/core/threads.hpp"
#include "lowla/core/workspace.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace lowla {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kEps = std::numeric_limits<double>::epsilon();
constexpr double kTiny = std::numeric_limits<double>::min();

constexpr double kFirstStage = 16; ///< the spread of C over reg in the first stage
constexpr double kStageError = 3e-3;
constexpr double kStageSteps = 30; ///< of Newton in a stage before the last
constexpr index kWarmup = 5;       ///< Sinkhorn steps a stage
constexpr double kDropped = 0.1;   ///< mass that Newton's matrix may lack, over the error
constexpr double kArmijo = 1e-4;
constexpr int kHalvings = 6;
constexpr double kLongestStep = 8; ///< of g / reg, before longer ones have gained
constexpr double kUnseen = 1e-2;   ///< of the error, on average over the columns
constexpr double kDepleted = 0.1;  ///< columns with less of their mass are not Newton's to judge
constexpr double kLeastDamping = 1e-8, kMostDamping = 1;
constexpr index kCgSteps = 500;
constexpr double kCgAccuracy = 1e-6;
constexpr index kAtRounding = 5; ///< steps without gain that end it at the level of rounding
constexpr index kPatience = 40;  ///< Newton steps in which the error has to halve
constexpr index kRejected = 4;   ///< Newton steps without gain until scaling takes over
constexpr double kFewSweeps = 60;
constexpr double kPointEntries = 64, kMoreEntries = 1 << 20;
constexpr double kGoodStart = 0.1; ///< error from which an initial guess is taken at reg itself
constexpr double kLargestCost = 1e290;
constexpr double kLargestRatio = 1e15; ///< beyond it f + g - C has no digits left
constexpr double kFarFromOne = 100;    ///< of the logarithm of the mass
constexpr double kSlack = 0.9;         ///< of tol, for the rounding of the certificate
constexpr double kSafeColumn = 1e-140; ///< column sums below may lack entries

index size(const Vector &v) { return static_cast<index>(v.size()); }

double dot(const Vector &x, const Vector &y) {
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i)
    sum += x[i] * y[i];
  return sum;
}
double magnitude(const Vector &x) {
  double sum = 0;
  for (const double v : x)
    sum += std::abs(v);
  return sum;
}
double largest_magnitude(const Vector &x) {
  double top = 0;
  for (const double v : x)
    top = std::max(top, std::abs(v));
  return top;
}

/// f(i) for each entry.
template <class F> Vector made(index n, F &&f) {
  Vector out(at(n));
  for (index i = 0; i < n; ++i)
    out[at(i)] = f(at(i));
  return out;
}

// --- Newton's system ---

/// D - P^T D(1/a) P. Rows are taken in parts that depend on the size alone.
class Schur {
public:
  Schur(const SparsePlan &P, const Vector &per_a, const Vector &diagonal)
      : P_(P), per_a_(per_a), diagonal_(diagonal) {
    constexpr index kEntries = 1 << 16, kMost = 8;
    parts_ = std::clamp<index>(size(P.data) / kEntries, 1, kMost);
    partial_ = Buffer<double>(parts_ * size(diagonal));
    bounds_.push_back(0);
    const auto rows = static_cast<index>(per_a.size());
    for (index p = 1; p <= parts_; ++p) { // equally many entries
      const auto wanted = static_cast<std::int64_t>(size(P.data)) * p / parts_;
      const auto found = std::lower_bound(P.indptr.begin(), P.indptr.end(), wanted);
      bounds_.push_back(p == parts_ ? rows : std::min<index>(rows, found - P.indptr.begin()));
    }
  }

  Vector apply(const Vector &p) const {
    return diagonal_less(
        [&](index i, double *out) {
          const std::int64_t first = P_.indptr[at(i)], last = P_.indptr[at(i + 1)];
          double total = 0;
          for (std::int64_t k = first; k < last; ++k)
            total += P_.data[at(k)] * p[at(P_.indices[at(k)])];
          total *= per_a_[at(i)];
          for (std::int64_t k = first; k < last; ++k)
            out[P_.indices[at(k)]] += total * P_.data[at(k)];
        },
        p);
  }

  Vector diagonal() const {
    return diagonal_less(
        [&](index i, double *out) {
          for (std::int64_t k = P_.indptr[at(i)]; k < P_.indptr[at(i + 1)]; ++k)
            out[P_.indices[at(k)]] += P_.data[at(k)] * P_.data[at(k)] * per_a_[at(i)];
        },
        Vector(diagonal_.size(), 1.0));
  }

private:
  /// D p minus what add_row(i, out) adds for every row.
  template <class AddRow> Vector diagonal_less(AddRow &&add_row, const Vector &p) const {
    const index n = size(diagonal_);
    double *partial = const_cast<double *>(partial_.get());
    threads::parallel_for(parts_, [&](index part) {
      double *out = partial + part * n;
      std::fill(out, out + n, 0.0);
      for (index i = bounds_[at(part)]; i < bounds_[at(part + 1)]; ++i)
        add_row(i, out);
    });
    for (index part = 1; part < parts_; ++part)
      for (index j = 0; j < n; ++j)
        partial[j] += partial[part * n + j];
    return made(n, [&](std::size_t j) { return diagonal_[j] * p[j] - partial[j]; });
  }

  const SparsePlan &P_;
  const Vector &per_a_, &diagonal_;
  index parts_;
  Buffer<double> partial_;
  Places bounds_;
};

/// p with (D - P^T D(1/a) P) p = rhs to a relative residual in L1, and the steps taken: conjugate
/// gradients preconditioned by the diagonal. What they have after a limited number of steps is an
/// ascent direction as well.
Vector solve_schur(const Schur &S, const Vector &diagonal, const Vector &rhs, double accuracy,
                   index &steps) {
  const index n = size(rhs);
  const Vector raw = S.diagonal();
  const Vector M = made(
      n, [&](std::size_t j) { return std::max(raw[j], std::max(1e-12 * diagonal[j], kTiny)); });
  Vector p(at(n), 0.0), r = rhs;
  Vector z = made(n, [&](std::size_t j) { return r[j] / M[j]; });
  Vector direction = z;
  double rz = dot(r, z);
  const double enough = accuracy * magnitude(rhs);
  for (steps = 0; steps < kCgSteps; ++steps) {
    if (magnitude(r) <= enough || !(rz > 0))
      return p;
    const Vector product = S.apply(direction);
    const double curvature = dot(direction, product);
    if (!(curvature > 0))
      return steps > 0 ? p : z;
    const double alpha = rz / curvature;
    for (index j = 0; j < n; ++j) {
      p[at(j)] += alpha * direction[at(j)];
      r[at(j)] -= alpha * product[at(j)];
      z[at(j)] = r[at(j)] / M[at(j)];
    }
    const double before = rz;
    rz = dot(r, z);
    for (index j = 0; j < n; ++j)
      direction[at(j)] = z[at(j)] + rz / before * direction[at(j)];
  }
  return p;
}

// --- the iteration ---

/// g, the f that fits the rows, the column sums c, and |c - b|_1, at a temperature eps.
struct State {
  Vector f, g, c;
  double error = 0, eps = 0;

  /// The error that the rounding of f + g - C may account for.
  double rounding() const {
    return 4 * kEps * (1 + (largest_magnitude(f) + largest_magnitude(g)) / eps);
  }
};

/// The monitor asked for the end, or the reads of C are used up.
struct Stopped {};

/// The iteration, for positive weights of sum 1; `state` is the last one reached.
class Solver {
public:
  State state;
  index sweeps = 0, newton_steps = 0, cg_iterations = 0;
  double density = 0;
  bool fallback = false;
  Vector log_a, log_b, a, b;

  Solver(const TransportCost &cost, Vector logs_a, Vector logs_b, index warmup,
         const TransportRequest &request, double most_entries)
      : log_a(std::move(logs_a)), log_b(std::move(logs_b)), cost_(cost), warmup_(warmup),
        left_(request.max_iter), most_entries_(most_entries), monitor_(request.monitor) {
    a = made(size(log_a), [&](std::size_t i) { return std::exp(log_a[i]); });
    b = made(size(log_b), [&](std::size_t j) { return std::exp(log_b[j]); });
    per_a_ = made(size(a), [&](std::size_t i) { return 1 / std::max(a[i], kTiny); });
  }

  /// Solves from a guess where it is good, else through the stages from `first` on.
  void run(const Vector *f0, const Vector *g0, double first, double reg, double tol, bool newton) {
    try {
      if (f0 != nullptr && g0 != nullptr) {
        State start = reached(*f0, *g0, reg);
        if (start.error <= kGoodStart || warmup_ == 0) {
          solve(std::move(start), reg, tol, newton);
          return;
        }
      }
      if (warmup_ == 0)
        first = reg;
      const auto times_first = [&](const Vector &logs) {
        return made(size(logs), [&](std::size_t i) { return first * logs[i]; });
      };
      solve(reached(times_first(log_a), times_first(log_b), first), reg, tol, newton);
    } catch (const Stopped &) {
      if (state.eps != reg)
        state = fitted(state.f, state.g, reg);
    }
  }

private:
  /// The state of g: one read of C; f is a guess.
  State reached(const Vector &f, const Vector &g, double eps) {
    if (left_ == 0)
      throw Stopped();
    --left_;
    return fitted(f, g, eps);
  }

  State fitted(const Vector &f, const Vector &g, double eps) {
    ++sweeps;
    CancelScope::poll();
    FittedRows rows = cost_.fit(a, log_a, f, g, eps);
    State s;
    for (std::size_t j = 0; j < b.size(); ++j)
      s.error += std::abs(rows.c[j] - b[j]);
    s.f = std::move(rows.f);
    s.c = std::move(rows.c);
    s.g = g;
    s.eps = eps;
    return s;
  }

  const State &reach(State s) {
    state = std::move(s);
    if (monitor_ && monitor_(sweeps, state.error))
      throw Stopped();
    return state;
  }

  /// log of the column sums; those near underflow are summed again, by their maximum.
  Vector log_columns(const State &s) const {
    Vector logs = made(size(s.c), [&](std::size_t j) { return std::log(s.c[j]); });
    Places rows, small;
    for (index j = 0; j < size(s.c); ++j)
      if (!(s.c[at(j)] >= kSafeColumn))
        small.push_back(j);
    if (small.empty())
      return logs;
    for (index i = 0; i < size(s.f); ++i)
      rows.push_back(i);
    Vector g;
    for (const index j : small)
      g.push_back(s.g[at(j)]);
    const Vector found = cost_.only(rows, small)->log_column_sums(s.f, g, s.eps);
    for (std::size_t k = 0; k < small.size(); ++k)
      logs[at(small[k])] = found[k];
    return logs;
  }

  /// Sinkhorn's step.
  State scaled(const State &s) {
    const Vector log_c = log_columns(s);
    const Vector g =
        made(size(s.g), [&](std::size_t j) { return s.g[j] + s.eps * (log_b[j] - log_c[j]); });
    return reach(reached(s.f, g, s.eps));
  }

  /// Sinkhorn's steps until the error is at most tol, or there were so many.
  State scale(State s, double tol, double steps) {
    double best = s.error;
    index since = 0;
    for (double k = 0; s.error > tol && k < steps && !(since > kAtRounding && best <= s.rounding());
         ++k) {
      s = scaled(s);
      since = s.error < best ? 0 : since + 1;
      best = std::min(best, s.error);
    }
    return s;
  }

  /// The plan without its small entries, whose mass is at most a tenth of the error.
  SparsePlan newton_matrix(const State &s) {
    const double entries = static_cast<double>(cost_.m) * static_cast<double>(cost_.n);
    double threshold = kDropped * std::min(s.error, 1.0) / entries;
    for (;; threshold *= 8)
      if (auto P = cost_.sparse(s.f, s.g, s.eps, threshold, most_entries_)) {
        density = static_cast<double>(P->data.size()) / entries;
        return std::move(*P);
      }
  }

  /// Newton's direction for g / eps, of weighted mean 0.
  Vector direction(const State &s) {
    const SparsePlan P = newton_matrix(s);
    const index n = size(s.c);
    // A nearly empty column's share c of the diagonal would let g leap by (b - c) / c.
    const double factor = 1 + damping_ + s.rounding();
    const Vector diagonal = made(
        n, [&](std::size_t j) { return (s.c[j] > kDepleted * b[j] ? s.c[j] : b[j]) * factor; });
    const Vector rhs = made(n, [&](std::size_t j) { return b[j] - s.c[j]; });
    const double accuracy = std::max(std::min(0.1, s.error), kCgAccuracy);
    index steps = 0;
    Vector p = solve_schur(Schur(P, per_a_, diagonal), diagonal, rhs, accuracy, steps);
    ++newton_steps;
    cg_iterations += steps;
    const double mean = dot(b, p);
    // Conjugate gradients do not see columns whose whole mass is below the accuracy.
    const double unseen = kUnseen * s.error / static_cast<double>(n);
    for (index j = 0; j < n; ++j) {
      p[at(j)] -= mean;
      if (std::max(s.c[at(j)], b[at(j)]) < unseen)
        p[at(j)] = std::clamp(p[at(j)], -1.0, 1.0);
    }
    return p;
  }

  /// Newton's step, shortened until it gains; nothing if it does not.
  std::optional<State> newton(const State &s) {
    const Vector p = direction(s);
    double slope = 0;
    for (std::size_t j = 0; j < p.size(); ++j)
      slope += p[j] * (b[j] - s.c[j]);
    const double length = std::max(largest_magnitude(p), 1.0);
    double t = std::min(1.0, longest_ / length);
    for (int halvings = 0; halvings < kHalvings; ++halvings, t *= 0.5) {
      const Vector g = made(size(p), [&](std::size_t j) { return s.g[j] + t * s.eps * p[j]; });
      State trial = reached(s.f, g, s.eps);
      double gain = 0;
      for (std::size_t i = 0; i < a.size(); ++i)
        gain += a[i] * (trial.f[i] - s.f[i]);
      for (std::size_t j = 0; j < b.size(); ++j)
        gain += b[j] * (trial.g[j] - s.g[j]);
      // psi / eps is large beside its changes, which drown in rounding before the error does.
      if (gain / s.eps >= kArmijo * t * slope || trial.error < 0.5 * s.error) {
        damp(halvings == 0);
        // Between groups of rows and columns that hardly exchange mass psi is almost linear.
        const double growth = halvings == 0 && t < 1 ? 4 : 1;
        longest_ = std::max(kLongestStep, growth * std::min(t * length, longest_));
        return reach(std::move(trial));
      }
    }
    damp(false);
    longest_ = kLongestStep;
    return std::nullopt;
  }

  void damp(bool less) {
    if (less)
      damping_ = damping_ > kLeastDamping ? 0.25 * damping_ : 0.0;
    else
      damping_ = std::min(std::max(2 * damping_, 1e-4), kMostDamping);
  }

  /// Sinkhorn's steps, then Newton's to an error of tol, while they gain.
  State stage(State s, double tol, double steps) {
    s = scale(std::move(s), tol, static_cast<double>(warmup_));
    index rejected = 0, since = 0;
    double best = s.error;
    for (double k = 0; s.error > tol && k < steps; ++k) {
      std::optional<State> trial = newton(s);
      rejected = trial ? 0 : rejected + 1;
      s = trial ? std::move(*trial) : scale(std::move(s), tol, static_cast<double>(warmup_ + 1));
      ++since;
      if (s.error <= 0.5 * best) {
        best = s.error;
        since = 0;
      }
      const index patience = best <= s.rounding() ? kAtRounding : kPatience;
      if (rejected == kRejected || since > patience)
        break;
    }
    return s;
  }

  /// Stages down to reg, each from potentials extrapolated linearly in eps.
  State anneal(State s, double reg, double tol, double steps) {
    std::optional<State> past;
    while (s.eps > reg) {
      s = stage(std::move(s), std::max(kStageError, tol), steps);
      const double below = std::max(0.5 * s.eps, reg);
      Vector f, g;
      if (!past) { // f - eps log a, to first order, is what f is at eps = 0
        f = made(size(s.f), [&](std::size_t i) { return s.f[i] + (below - s.eps) * log_a[i]; });
        g = made(size(s.g), [&](std::size_t j) { return s.g[j] + (below - s.eps) * log_b[j]; });
      } else {
        const double ratio = (below - s.eps) / (s.eps - past->eps);
        f = made(size(s.f), [&](std::size_t i) { return s.f[i] + ratio * (s.f[i] - past->f[i]); });
        g = made(size(s.g), [&](std::size_t j) { return s.g[j] + ratio * (s.g[j] - past->g[j]); });
      }
      past = std::move(s);
      s = reach(reached(f, g, below));
    }
    return s;
  }

  /// From a state at any temperature to one at reg, by both steps or by Sinkhorn's alone.
  void solve(State s, double reg, double tol, bool newton) {
    s = reach(std::move(s));
    s = anneal(std::move(s), reg, tol, newton ? kStageSteps : 0);
    if (newton) {
      s = stage(std::move(s), tol, kInf);
      fallback = s.error > std::max(tol, s.rounding());
    }
    scale(std::move(s), tol, kInf);
  }

  const TransportCost &cost_;
  Vector per_a_;
  index warmup_, left_;
  double most_entries_;
  const std::function<bool(index, double)> &monitor_;
  double damping_ = 0, longest_ = kLongestStep;
};

// --- the problem ---

template <class... Values> std::string text(const char *format, Values... values) {
  char out[200];
  std::snprintf(out, sizeof out, format, values...);
  return out;
}

/// ValueError for costs out of range, and weights that can go nowhere.
void require_solvable(const CostExtent &found, double reg, const Places &rows,
                      const Places &columns) {
  const auto require_finite = [](const std::vector<char> &empty, const Places &kept,
                                 const char *name) {
    const auto first = std::find(empty.begin(), empty.end(), 1);
    if (first != empty.end())
      throw ValueError(
          text("C must have a finite cost in every %s of positive weight, got only inf "
               "in %s %lld",
               name, name, static_cast<long long>(kept[at(first - empty.begin())])));
  };
  require_finite(found.empty_rows, rows, "row");
  require_finite(found.empty_columns, columns, "column");
  const double largest = std::max(std::abs(found.least), std::abs(found.largest));
  if (!(largest <= kLargestCost))
    throw ValueError(
        text("costs must be at most %g in magnitude, got %.3g", kLargestCost, largest));
  const double spread = found.largest - found.least;
  if (!(spread <= kLargestRatio * reg))
    throw ValueError(text("reg must be at least %g times the spread of the costs = %.3g, got %g",
                          1 / kLargestRatio, spread, reg));
}

/// For "auto" Sinkhorn's steps where few are sure to do: the contraction factor of a full iteration
/// in Hilbert's metric is at most tanh(ratio / 2)^2 (Franklin, Lorenz 1989).
bool takes_newton(const std::string &method, double ratio, double tol) {
  if (method != "auto")
    return method != "sinkhorn";
  const double rate = std::tanh(0.5 * ratio) * std::tanh(0.5 * ratio);
  return !(rate == 0 || std::log(tol) >= kFewSweeps * std::log(rate));
}

double most_entries(const TransportRequest &request, index m, index n) {
  const auto sum = static_cast<double>(m + n);
  if (request.sparsity > 0)
    return std::max(request.sparsity * static_cast<double>(m) * static_cast<double>(n), sum);
  return request.points ? kPointEntries * sum + kMoreEntries : kInf;
}

/// The sum of the weights; their range is that of double.
double mass(const Vector &weights) {
  const double top = *std::max_element(weights.begin(), weights.end());
  double sum = 0;
  for (const double w : weights)
    sum += w / top;
  return top * sum;
}

Vector normalized_logs(const Vector &weights) {
  const double shift = std::log(mass(weights));
  return made(size(weights), [&](std::size_t i) { return std::log(weights[i]) - shift; });
}

Places positive(const Vector &weights) {
  Places out;
  for (index i = 0; i < size(weights); ++i)
    if (weights[at(i)] > 0)
      out.push_back(i);
  return out;
}
Vector some(const Vector &v, const Places &which) {
  return made(static_cast<index>(which.size()), [&](std::size_t k) { return v[at(which[k])]; });
}
Vector spread_out(const Vector &v, const Places &where, index n, double rest) {
  Vector out(at(n), rest);
  for (std::size_t k = 0; k < where.size(); ++k)
    out[at(where[k])] = v[k];
  return out;
}

/// f and g with equal weighted means; `shift` = reg log(mass) is added to their sum.
void into_gauge(const Solver &s, double shift, Vector &f, Vector &g) {
  const double middle = 0.5 * (dot(s.a, s.state.f) - dot(s.b, s.state.g));
  f = made(size(s.a), [&](std::size_t i) { return s.state.f[i] - (middle - 0.5 * shift); });
  g = made(size(s.b), [&](std::size_t j) { return s.state.g[j] + (middle + 0.5 * shift); });
}

/// What is measured of the potentials as they are returned, from one more read of C.
void certify(const TransportCost &cost, const Vector &a, const Vector &b, const Vector &f,
             const Vector &g, double reg, double tol, TransportFacts &facts) {
  const double total = mass(a);
  // Else entries of P may leave the range of exp.
  const double unit = std::abs(std::log(total)) > kFarFromOne ? total : 1;
  const double lower = reg * std::log(unit);
  const PlanSums sums =
      cost.sums(made(size(f), [&](std::size_t i) { return f[i] - lower; }), g, reg);
  const double share = total / unit, total_b = mass(b);
  double error = 0, value = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    error += std::abs(sums.rows[i] - a[i] / unit);
    value += a[i] / unit * f[i];
  }
  for (std::size_t j = 0; j < b.size(); ++j) {
    const double weight = b[j] / total_b * share;
    error += std::abs(sums.columns[j] - weight);
    value += weight * g[j];
  }
  facts.marginal_error = error / share;
  facts.value = unit * (value - reg * sums.mass);
  facts.value_linear = unit * sums.linear;
  facts.converged = facts.marginal_error <= tol;
}

} // namespace

Transport sinkhorn(const Vector &a, const Vector &b, const TransportCost &whole,
                   const TransportRequest &request, const Vector *f0, const Vector *g0,
                   bool check_finite) {
  CostExtent found = whole.extent();
  if (found.invalid) {
    if (check_finite)
      throw ValueError("C contains NaN or -inf");
    const double nan = std::numeric_limits<double>::quiet_NaN();
    return {Vector(a.size(), nan), Vector(b.size(), nan), {}};
  }
  const Places rows = positive(a), columns = positive(b);
  std::unique_ptr<TransportCost> part;
  if (rows.size() < a.size() || columns.size() < b.size()) {
    part = whole.only(rows, columns);
    found = part->extent();
  }
  const TransportCost &cost = part ? *part : whole;
  require_solvable(found, request.reg, rows, columns);
  const double spread = found.largest - found.least;
  const bool newton = found.forbidden
                          ? request.method != "sinkhorn"
                          : takes_newton(request.method, spread / request.reg, request.tol);
  const Vector inner_a = some(a, rows), inner_b = some(b, columns);
  Solver s(cost, normalized_logs(inner_a), normalized_logs(inner_b),
           request.warmup >= 0 ? request.warmup : (newton ? kWarmup : 0), request,
           most_entries(request, cost.m, cost.n));
  Vector start_f, start_g;
  if (f0 != nullptr && g0 != nullptr) {
    start_f = some(*f0, rows);
    start_g = some(*g0, columns);
  }
  const bool several = std::min(cost.m, cost.n) > 1;
  s.run(f0 != nullptr ? &start_f : nullptr, g0 != nullptr ? &start_g : nullptr,
        several ? std::max(spread / kFirstStage, request.reg) : request.reg, request.reg,
        kSlack * request.tol, newton);
  Transport out;
  Vector f, g;
  into_gauge(s, std::log(mass(a)) * request.reg, f, g);
  certify(cost, inner_a, inner_b, f, g, request.reg, request.tol, out.facts);
  out.facts.sweeps = s.sweeps;
  out.facts.newton_steps = s.newton_steps;
  out.facts.cg_iterations = s.cg_iterations;
  out.facts.method = newton ? "newton" : "sinkhorn";
  out.facts.fallback = s.fallback;
  out.facts.density = s.density;
  out.f = spread_out(f, rows, size(a), -kInf);
  out.g = spread_out(g, columns, size(b), -kInf);
  return out;
}

} // namespace lowla
