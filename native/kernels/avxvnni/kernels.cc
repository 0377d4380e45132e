// Integer products of AVX-VNNI: the 256-bit form that CPUs without AVX-512 have.
#include "kernels/avxvnni/products.h"

namespace gpt2::kernels::avxvnni {
namespace {

struct Vex {
  // By name, as avx512vnni/ does and for the same reason.
  static void add(__m256i& sum, __m256i x, __m256i w) {
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(x), "x"(w));
  }
};

}  // namespace

const MatmulQFn kMatmulQ = simd::matmul_q<avx2::Vec, Products<Vex>>;

}  // namespace gpt2::kernels::avxvnni
