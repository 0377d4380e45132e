// AMX: the matrix unit of Xeons since Sapphire Rapids, for int8, int4 and bfloat16 weights.
#include "kernels/amx/hardware.h"
#include "kernels/amx/matmul.h"

namespace gpt2::kernels::amx {

const MatmulFn kMatmul = matmul<Hardware>;
const MatmulQFn kMatmulQ = matmul_q<Hardware>;
const NarrowFn kNarrow = avx512::narrow;

}  // namespace gpt2::kernels::amx
