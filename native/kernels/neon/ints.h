// What the integer kernels of 64-bit ARM share: 16 int32 in four registers, int4 as codes, and int4 unpacked to int8.
#pragma once
#include <arm_neon.h>

#include "kernels/neon/vec.h"

namespace gpt2::kernels::neon {
namespace {

struct Ints {
  struct Acc {
    int32x4_t a, b, c, d;
  };
  // A line of int8, or of codes in 0..15: four outputs x 4 k in a register.
  struct W {
    int8x16_t a, b, c, d;
  };
  struct Codes {
    uint8x16_t a, b, c, d;
  };
  using X = uint8x16_t;

  static Acc zero() { return set(0); }
  static Acc set(std::int32_t x) { return {vdupq_n_s32(x), vdupq_n_s32(x), vdupq_n_s32(x), vdupq_n_s32(x)}; }
  static Acc load(const std::int32_t* p) {
    return {vld1q_s32(p), vld1q_s32(p + 4), vld1q_s32(p + 8), vld1q_s32(p + 12)};
  }
  static Acc load_i8(const std::int8_t* p) {
    const int8x16_t bytes = vld1q_s8(p);
    return from_words(vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
  }
  static Acc load_u8(const std::uint8_t* p) {
    const uint8x16_t bytes = vld1q_u8(p);
    return from_words(vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes))), vreinterpretq_s16_u16(vmovl_high_u8(bytes)));
  }
  static Acc add(Acc x, Acc y) {
    return {vaddq_s32(x.a, y.a), vaddq_s32(x.b, y.b), vaddq_s32(x.c, y.c), vaddq_s32(x.d, y.d)};
  }
  static Acc sub(Acc x, Acc y) {
    return {vsubq_s32(x.a, y.a), vsubq_s32(x.b, y.b), vsubq_s32(x.c, y.c), vsubq_s32(x.d, y.d)};
  }
  static Acc mul(Acc x, Acc y) {
    return {vmulq_s32(x.a, y.a), vmulq_s32(x.b, y.b), vmulq_s32(x.c, y.c), vmulq_s32(x.d, y.d)};
  }
  static Vec::F to_float(Acc x) {
    return {vcvtq_f32_s32(x.a), vcvtq_f32_s32(x.b), vcvtq_f32_s32(x.c), vcvtq_f32_s32(x.d)};
  }

  static W weights(const std::byte* line) {
    const auto* p = reinterpret_cast<const std::int8_t*>(line);
    return {vld1q_s8(p), vld1q_s8(p + 16), vld1q_s8(p + 32), vld1q_s8(p + 48)};
  }
  static void nibbles(const std::byte* line, Codes& first, Codes& second) {
    const auto* p = reinterpret_cast<const std::uint8_t*>(line);
    const uint8x16_t a = vld1q_u8(p), b = vld1q_u8(p + 16), c = vld1q_u8(p + 32), d = vld1q_u8(p + 48);
    const auto low = [](uint8x16_t v) { return vandq_u8(v, vdupq_n_u8(0x0f)); };
    first = {low(a), low(b), low(c), low(d)};
    second = {vshrq_n_u8(a, 4), vshrq_n_u8(b, 4), vshrq_n_u8(c, 4), vshrq_n_u8(d, 4)};
  }
  static X spread(const std::uint8_t* x) {
    std::uint32_t four;
    std::memcpy(&four, x, sizeof four);
    return vreinterpretq_u8_u32(vdupq_n_u32(four));
  }
  // x - 128, for products that only know two signed bytes.
  static int8x16_t centred(X x) { return vreinterpretq_s8_u8(veorq_u8(x, vdupq_n_u8(0x80))); }

 private:
  static Acc from_words(int16x8_t low, int16x8_t high) {
    return {vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)};
  }
};

// A line of codes as two lines of mult * code + offset, modulo 256: the weight itself is within a byte.
struct Unpack {
  uint8x16_t mult[4], offset[4];

  Unpack(const std::uint8_t* m, const std::int8_t* o) {
    const uint8x16_t mults = vld1q_u8(m);
    const uint8x16_t offsets =
        o == nullptr ? vmulq_u8(mults, vdupq_n_u8(0xf8)) : vreinterpretq_u8_s8(vld1q_s8(o));  // -8 mult
    const uint8x16_t first = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
    for (std::uint8_t q = 0; q < 4; ++q) {
      const uint8x16_t outputs = vaddq_u8(first, vdupq_n_u8(static_cast<std::uint8_t>(4 * q)));
      mult[q] = vqtbl1q_u8(mults, outputs);
      offset[q] = vqtbl1q_u8(offsets, outputs);
    }
  }

  void operator()(const std::byte* line, std::byte* out) const {
    const auto* codes = reinterpret_cast<const std::uint8_t*>(line);
    auto* w = reinterpret_cast<std::uint8_t*>(out);
    for (std::size_t q = 0; q < 4; ++q) {
      const uint8x16_t c = vld1q_u8(codes + 16 * q);
      vst1q_u8(w + 16 * q, vmlaq_u8(offset[q], vandq_u8(c, vdupq_n_u8(0x0f)), mult[q]));
      vst1q_u8(w + kLine + 16 * q, vmlaq_u8(offset[q], vshrq_n_u8(c, 4), mult[q]));
    }
  }
};

}  // namespace
}  // namespace gpt2::kernels::neon
