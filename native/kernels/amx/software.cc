// The kernels of AMX on the unit in plain C++: for tests only, on machines with AVX-512 VNNI.
#include "kernels/amx/software.h"

#include "kernels/amx/matmul.h"

namespace gpt2::kernels::amx {

const MatmulFn kSoftwareMatmul = matmul<Software>;
const MatmulQFn kSoftwareMatmulQ = matmul_q<Software>;
const NarrowFn kSoftwareNarrow = avx512::narrow;

}  // namespace gpt2::kernels::amx
