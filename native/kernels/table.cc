#include "kernels/table.h"

namespace gpt2::kernels {

Kernels kernels_for(Isa isa) {
  Kernels table = generic::kTable;
#if defined(__x86_64__)
  if (isa == Isa::kAvx512 || isa == Isa::kAvx512Bf16 || isa == Isa::kAmx) {
    table = avx512::kTable;
    if (has_avx512_vnni()) table.matmul_q = avx512vnni::kMatmulQ;
    if (isa == Isa::kAvx512Bf16) {
      table.matmul = avx512bf16::kMatmul;
      table.narrow = avx512bf16::kNarrow;
    }
    if (isa == Isa::kAmx) {
      table.matmul = amx::kMatmul;
      table.matmul_q = amx::kMatmulQ;
      table.narrow = amx::kNarrow;
    }
  } else if (isa == Isa::kAvx2) {
    table = avx2::kTable;
    if (has_avx_vnni()) table.matmul_q = avxvnni::kMatmulQ;
  }
#elif defined(__aarch64__)
  if (isa == Isa::kNeon) {
    table = neon::kTable;
    if (has_neon_dot()) table.matmul_q = neondot::kMatmulQ;
    if (has_neon_i8mm()) table.matmul_q = neoni8mm::kMatmulQ;
  }
#endif
  (void)isa;
  return table;
}

}  // namespace gpt2::kernels
