// The kernel of AVX-VNNI with the encoding of AVX-512VL: for tests only, on machines that have the one and not the
// other.
#include "kernels/avxvnni/products.h"

namespace gpt2::kernels::avxvnni {
namespace {

struct Evex {
  static void add(__m256i& sum, __m256i x, __m256i w) {
    __asm__("%{evex%} vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
  }
};

}  // namespace

const MatmulQFn kTwinMatmulQ = simd::matmul_q<avx2::Vec, Products<Evex>>;

}  // namespace gpt2::kernels::avxvnni
