// M-FAC on the device: the functions of mfac.hpp, members of CudaMfac, which device/cuda_mfac.cuh
// defines.
//
// G, X, Y, L, W, V and `out` are device memory; K, R, C, the mask and what is passed as a vector
// are in main memory.
#pragma once

#include "lowla/device/runtime.hpp"
#include "lowla/mfac.hpp"

namespace lowla {

template <class Runtime> struct CudaMfac {
  static void gram(const Gradients &G, const unsigned char *mask, double *K);
  static void factor(const Stack<const double> &K, index blocks, index s, double shift, index head,
                     const Stack<double> &L);
  static void coefficients(const Factors &L, index m, index head, const double *R, index r,
                           double *C);
  static void dots(const Gradients &G, const Vectors &X, double *R);
  static void combine(const Gradients &G, const double *C, const Vectors &X, double alpha,
                      double beta, const MutableVectors &Y);
  static void solve(const Gradients &G, const Factors &L, index head, double damp, const Vectors &X,
                    const MutableVectors &Y);
  static void multiply(const Gradients &G, double damp, const Vectors &X, const MutableVectors &Y);
  static void diagonal(const Gradients &G, const Factors &L, index head, double damp,
                       const MutableVectors &out);
  static void columns(const Gradients &G, const Factors &L, index head,
                      const std::vector<index> &indices, double *W);
  static void inner(const double *W, index s, const std::vector<index> &i,
                    const std::vector<index> &j, double *out);
  static void cross(const double *V, index p, const double *W, index q, index s, double *out);
  static LogTrace log_trace(const Factors &L, index blocks, index s, index width, double shift);
  static Window push(const std::vector<Shard> &window, index rows, const std::vector<Shard> &g,
                     index block_size, const Stack<double> &K, const Stack<double> &L, index head,
                     index count, double damp, bool refactor);
  static void natural_gradient(const Vectors &G, const Vectors &U, const Vectors &S, double damp,
                               const MutableVectors &Y);
};

} // namespace lowla
