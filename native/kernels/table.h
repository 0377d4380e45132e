// One struct of pointers per instruction set; the model calls through it and knows no set by name.
#pragma once
#include "base/cpu.h"
#include "kernels/attention.h"
#include "kernels/matmul.h"
#include "kernels/matmul_q.h"
#include "kernels/rows.h"

namespace gpt2::kernels {

struct Kernels {
  MatmulFn matmul;
  MatmulQFn matmul_q;
  AttentionFn attention;
  LayerNormFn layer_norm;
  ActivateFn activate;
  QuantizeFn quantize;
  NarrowFn narrow = nullptr;  // where it is, matmul with bfloat16 weights reads what it made (Matmul::narrow_x)
};

Kernels kernels_for(Isa isa);

// One table per set of native/kernels; a set's integer products may come in a faster form that only some CPUs have.
namespace generic {
extern const Kernels kTable;
}
namespace avx2 {
extern const Kernels kTable;
}
namespace avxvnni {
extern const MatmulQFn kMatmulQ;
extern const MatmulQFn kTwinMatmulQ;  // the same in the encoding of AVX-512VL, for tests: in gpt2_kernel_twins
}  // namespace avxvnni
namespace avx512 {
extern const Kernels kTable;
}
namespace avx512vnni {
extern const MatmulQFn kMatmulQ;
}
namespace avx512bf16 {
extern const MatmulFn kMatmul;
extern const NarrowFn kNarrow;
// The same on products in plain C++, and plain loops, for tests: in gpt2_kernel_twins.
extern const MatmulFn kTwinMatmul, kPlainMatmul;
extern const NarrowFn kPlainNarrow;
}  // namespace avx512bf16
namespace amx {
extern const MatmulFn kMatmul;
extern const MatmulQFn kMatmulQ;
extern const NarrowFn kNarrow;
// The same on a unit in plain C++, for tests: in gpt2_kernel_twins.
extern const MatmulFn kSoftwareMatmul;
extern const MatmulQFn kSoftwareMatmulQ;
extern const NarrowFn kSoftwareNarrow;
}  // namespace amx
namespace neon {
extern const Kernels kTable;
}
namespace neondot {
extern const MatmulQFn kMatmulQ;
}
namespace neoni8mm {
extern const MatmulQFn kMatmulQ;
}

}  // namespace gpt2::kernels
