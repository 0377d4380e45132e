// The table of the plain kernels.
#include "kernels/generic/kernels.h"

namespace gpt2::kernels::generic {

const Kernels kTable = {matmul, matmul_q, attention, layer_norm, activate, quantize};

}  // namespace gpt2::kernels::generic
