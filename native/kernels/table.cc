#include "kernels/table.h"

namespace gpt2::kernels {

const Kernels& kernels_for(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512) return avx512::kTable;
  if (isa == Isa::kAvx2) return avx2::kTable;
#endif
  (void)isa;
  return generic::kTable;
}

}  // namespace gpt2::kernels
