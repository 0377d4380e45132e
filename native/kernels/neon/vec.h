// The vector of 64-bit ARM: 16 floats in four registers. A mask is the number of lanes that count: there are no masked
// loads, so a part of a vector goes through memory on the stack.
#pragma once
#include <arm_neon.h>

#include "kernels/types.h"

namespace gpt2::kernels::neon {
namespace {

struct Vec {
  static constexpr std::size_t kTileVectors = 1;  // 6 rows x 4 registers of sums, 4 of W, 1 of x: 29 of 32 registers
  struct F {
    float32x4_t a, b, c, d;
  };
  struct Mask {
    std::size_t n;
  };

  static Mask mask(std::size_t n) { return {n < kLanes ? n : kLanes}; }
  static F zero() { return set(0.0f); }
  static F set(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x), vdupq_n_f32(x), vdupq_n_f32(x)}; }
  static F load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}; }
  static F load(const float* p, Mask m) {
    if (m.n == kLanes) return load(p);
    float part[kLanes] = {};
    std::memcpy(part, p, m.n * sizeof(float));
    return load(part);
  }
  static F load(const std::uint16_t* p) {
    const uint16x8_t low = vld1q_u16(p), high = vld1q_u16(p + 8);
    return {widen(vget_low_u16(low)), widen(vget_high_u16(low)), widen(vget_low_u16(high)), widen(vget_high_u16(high))};
  }
  static F load(const std::int8_t* p) {
    const int8x16_t bytes = vld1q_s8(p);
    const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_high_s8(bytes);
    return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_high_s16(low)),
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), vcvtq_f32_s32(vmovl_high_s16(high))};
  }
  // A line of bfloat16 pairs: the first and the second of each.
  static void load_pair(const std::byte* line, F& first, F& second) {
    const auto* words = reinterpret_cast<const std::uint32_t*>(line);
    const uint32x4_t a = vld1q_u32(words), b = vld1q_u32(words + 4), c = vld1q_u32(words + 8),
                     d = vld1q_u32(words + 12);
    const auto low = [](uint32x4_t v) { return vreinterpretq_f32_u32(vshlq_n_u32(v, 16)); };
    const auto high = [](uint32x4_t v) { return vreinterpretq_f32_u32(vandq_u32(v, vdupq_n_u32(0xffff0000u))); };
    first = {low(a), low(b), low(c), low(d)};
    second = {high(a), high(b), high(c), high(d)};
  }
  static void store(float* p, F v) {
    vst1q_f32(p, v.a);
    vst1q_f32(p + 4, v.b);
    vst1q_f32(p + 8, v.c);
    vst1q_f32(p + 12, v.d);
  }
  static void store(float* p, F v, Mask m) {
    if (m.n == kLanes) return store(p, v);
    float part[kLanes];
    store(part, v);
    std::memcpy(p, part, m.n * sizeof(float));
  }
  // Whole numbers in [0, 255] as bytes.
  static void store_u8(std::uint8_t* p, F v) {
    const auto words = [](float32x4_t x) { return vmovn_u32(vcvtq_u32_f32(x)); };
    const uint16x8_t low = vcombine_u16(words(v.a), words(v.b)), high = vcombine_u16(words(v.c), words(v.d));
    vst1q_u8(p, vcombine_u8(vmovn_u16(low), vmovn_u16(high)));
  }
  // The sum of 32 bytes.
  static std::int32_t sum_run(const std::uint8_t* p) { return vaddlvq_u8(vld1q_u8(p)) + vaddlvq_u8(vld1q_u8(p + 16)); }
  static F add(F x, F y) {
    return {vaddq_f32(x.a, y.a), vaddq_f32(x.b, y.b), vaddq_f32(x.c, y.c), vaddq_f32(x.d, y.d)};
  }
  static F sub(F x, F y) {
    return {vsubq_f32(x.a, y.a), vsubq_f32(x.b, y.b), vsubq_f32(x.c, y.c), vsubq_f32(x.d, y.d)};
  }
  static F mul(F x, F y) {
    return {vmulq_f32(x.a, y.a), vmulq_f32(x.b, y.b), vmulq_f32(x.c, y.c), vmulq_f32(x.d, y.d)};
  }
  static F div(F x, F y) {
    return {vdivq_f32(x.a, y.a), vdivq_f32(x.b, y.b), vdivq_f32(x.c, y.c), vdivq_f32(x.d, y.d)};
  }
  static F fma(F x, F y, F z) {
    return {vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b), vfmaq_f32(z.c, x.c, y.c), vfmaq_f32(z.d, x.d, y.d)};
  }
  // x where it is larger, else y; y where either is NaN: a comparison, because FMAX would return the NaN.
  static F max(F x, F y) { return {larger(x.a, y.a), larger(x.b, y.b), larger(x.c, y.c), larger(x.d, y.d)}; }
  static F min(F x, F y) { return {smaller(x.a, y.a), smaller(x.b, y.b), smaller(x.c, y.c), smaller(x.d, y.d)}; }
  static F select(Mask m, F x, F y) {
    const uint32x4_t n = vdupq_n_u32(static_cast<std::uint32_t>(m.n)), four = vdupq_n_u32(4);
    const uint32x4_t a = {0, 1, 2, 3}, b = vaddq_u32(a, four), c = vaddq_u32(b, four), d = vaddq_u32(c, four);
    return {vbslq_f32(vcltq_u32(a, n), x.a, y.a), vbslq_f32(vcltq_u32(b, n), x.b, y.b),
            vbslq_f32(vcltq_u32(c, n), x.c, y.c), vbslq_f32(vcltq_u32(d, n), x.d, y.d)};
  }
  static F round(F x) { return {vrndnq_f32(x.a), vrndnq_f32(x.b), vrndnq_f32(x.c), vrndnq_f32(x.d)}; }
  // 2^n for whole n in [-126, 127].
  static F exp2_whole(F n) { return {power(n.a), power(n.b), power(n.c), power(n.d)}; }

 private:
  static float32x4_t widen(uint16x4_t bits) { return vreinterpretq_f32_u32(vshll_n_u16(bits, 16)); }
  static float32x4_t larger(float32x4_t x, float32x4_t y) { return vbslq_f32(vcgtq_f32(x, y), x, y); }
  static float32x4_t smaller(float32x4_t x, float32x4_t y) { return vbslq_f32(vcltq_f32(x, y), x, y); }
  static float32x4_t power(float32x4_t n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23));
  }
};

}  // namespace
}  // namespace gpt2::kernels::neon
