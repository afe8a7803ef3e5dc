// The rank-5 factorisation of a 400 x 200 matrix of rank 5, from C++.
#include <lowla/device/host.hpp>
#include <lowla/rsvd.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

int main() {
  using Device = lowla::Host<double>;
  constexpr lowla::index m = 400, n = 200, k = 5;
  std::vector<double> A(m * n, 0.0); // row-major
  for (lowla::index r = 1; r <= k; ++r)
    for (lowla::index i = 0; i < m; ++i)
      for (lowla::index j = 0; j < n; ++j)
        A[i * n + j] += std::sin(static_cast<double>(r * i)) * std::cos(static_cast<double>(r * j));

  const auto matrix = Device::dense({A.data(), m, n, n, 1});
  lowla::LowRankRequest request;
  request.k = k;
  const auto result = lowla::LowRank<Device>(*matrix, request).svd();
  for (const double s : result.values)
    std::printf("%.6f\n", s);
  std::printf("relative error %.1e, %s\n", result.facts.error, result.facts.method);
  return result.facts.error < 1e-12 ? 0 : 1;
}
