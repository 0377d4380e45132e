// The templates of simd/ with four registers of 4 floats, and integer products that every 64-bit ARM has.
#include "kernels/simd/kernels.h"

#include "kernels/neon/ints.h"
#include "kernels/neon/vec.h"
#include "kernels/table.h"

namespace gpt2::kernels::neon {
namespace {

// Products of bytes as int16, which hold any one of them; two of x - 128 and int8 may not fit together, so those are
// added as int32. Four products of a uint8 and a code do fit an uint16.
struct Products : Ints {
  static constexpr int kRows = 4;
  static constexpr int kNibbleRows = 2;
  static constexpr bool kCentred = true;
  using Unpack = neon::Unpack;

  static Acc count(const Acc& sum, const W& w) {
    const int8x16_t one = vdupq_n_s8(1);
    return {four(sum.a, one, w.a), four(sum.b, one, w.b), four(sum.c, one, w.c), four(sum.d, one, w.d)};
  }
  static Acc dot(const Acc& sum, X x, const W& w) {
    const int8x16_t v = centred(x);
    return {four(sum.a, v, w.a), four(sum.b, v, w.b), four(sum.c, v, w.c), four(sum.d, v, w.d)};
  }
  static Acc dot(const Acc& sum, X x, const Codes& w) {
    return {four(sum.a, x, w.a), four(sum.b, x, w.b), four(sum.c, x, w.c), four(sum.d, x, w.d)};
  }

 private:
  static int32x4_t four(int32x4_t sum, int8x16_t x, int8x16_t w) {
    const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(x), vget_low_s8(w)));
    const int32x4_t high = vpaddlq_s16(vmull_high_s8(x, w));
    return vaddq_s32(sum, vpaddq_s32(low, high));
  }
  static int32x4_t four(int32x4_t sum, uint8x16_t x, uint8x16_t codes) {
    const uint16x8_t low = vmull_u8(vget_low_u8(x), vget_low_u8(codes)), high = vmull_high_u8(x, codes);
    return vreinterpretq_s32_u32(vpadalq_u16(vreinterpretq_u32_s32(sum), vpaddq_u16(low, high)));
  }
};

}  // namespace

const Kernels kTable = simd::table<Vec, Products>();

}  // namespace gpt2::kernels::neon
