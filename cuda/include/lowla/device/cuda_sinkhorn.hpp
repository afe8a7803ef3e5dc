// Entropic optimal transport, log-sum-exp and softmax on the device: functions of sinkhorn.hpp,
// members of CudaSinkhorn and CudaLogsumexp, which device/cuda_sinkhorn.cuh defines.
//
// Costs, points, plans and lines are device memory; potentials and what the costs return as vectors
// are in main memory.
#pragma once

#include "lowla/device/functors_logsumexp.hpp"
#include "lowla/mfac.hpp"
#include "lowla/sinkhorn.hpp"

namespace lowla {

/// A TransportCost writes its plan to device memory. Costs are read where they lie; points are
/// copied in double precision.
template <class Runtime> struct CudaSinkhorn {
  static std::unique_ptr<TransportCost> array_cost(MatrixView<float> C);
  static std::unique_ptr<TransportCost> array_cost(MatrixView<double> C);
  static std::unique_ptr<TransportCost> points_cost(const Vectors &X, const Vectors &Y,
                                                    Metric metric);
  static void gradient(const Vectors &X, const Vectors &Y, Metric metric, const Vector &f,
                       const Vector &g, double reg, double *by_x, double *by_y);
};

template <class S, class Runtime> struct CudaLogsumexp {
  static void logsumexp(const Lines<S> &X, S *out);
  /// The lines one after another, or where X.across() side by side.
  static void softmax(const Lines<S> &X, S *out);
};

} // namespace lowla
