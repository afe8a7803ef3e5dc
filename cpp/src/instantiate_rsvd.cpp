// The one place where the low-rank algorithms are compiled for the host.
#include "lowla/device/host.hpp"
#include "lowla/rsvd.hpp"

namespace lowla {
template class LowRank<Host<float>>;
template class LowRank<Host<double>>;
template class LowRank<Host<std::complex<float>>>;
template class LowRank<Host<std::complex<double>>>;
} // namespace lowla
