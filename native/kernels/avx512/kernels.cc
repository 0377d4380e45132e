// The templates of simd/ with vectors of 16 floats.
#include "kernels/simd/kernels.h"

#include "kernels/avx512/vec.h"
#include "kernels/table.h"

namespace gpt2::kernels::avx512 {

const Kernels kTable = simd::table<Vec>();

}  // namespace gpt2::kernels::avx512
