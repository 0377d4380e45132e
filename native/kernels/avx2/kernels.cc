// The templates of simd/ with vectors of 8 floats.
#include "kernels/simd/kernels.h"

#include "kernels/avx2/vec.h"
#include "kernels/table.h"

namespace gpt2::kernels::avx2 {

const Kernels kTable = simd::table<Vec>();

}  // namespace gpt2::kernels::avx2
