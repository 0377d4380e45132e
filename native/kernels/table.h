// One struct of pointers per instruction set; the model calls through it and knows no set by name.
#pragma once
#include "base/cpu.h"
#include "kernels/attention.h"
#include "kernels/matmul.h"
#include "kernels/rows.h"

namespace gpt2::kernels {

struct Kernels {
  MatmulFn matmul_kn;
  MatmulFn matmul_nk;
  AttentionFn attention;
  LayerNormFn layer_norm;
  EmbedFn embed;
  ActivateFn activate;
};

const Kernels& kernels_for(Isa isa);

namespace generic {
extern const Kernels kTable;
}
namespace avx2 {
extern const Kernels kTable;
}
namespace avx512 {
extern const Kernels kTable;
}

}  // namespace gpt2::kernels
