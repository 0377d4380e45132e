// The templates of simd/ with two registers of 8 floats, and integer products without VNNI.
#include "kernels/simd/kernels.h"

#include "kernels/avx2/ints.h"
#include "kernels/avx2/vec.h"
#include "kernels/table.h"

namespace gpt2::kernels::avx2 {
namespace {

// Products of 16-bit pairs: the products of bytes (vpmaddubsw) would be half as many instructions and saturate. For one
// row a line is split into bytes 0 and 2 of each four, and bytes 1 and 3. Several rows stand as 16-bit numbers, so that
// one load spreads four of them, and what is left is a multiplication and an addition for each pair of outputs.
struct Products : Ints {
  static constexpr int kRows = 6;        // of 2 registers of sums, 2 of weights, 1 of x: 15 of 16
  static constexpr int kNibbleRows = 6;  // a register of sums, and 4 of codes, 1 of multipliers, 3 of products
  static constexpr bool kCentred = false;
  struct W {
    Acc even, odd;
  };
  struct X {
    __m256i even, odd;
  };

  static W weights(const std::byte* line) {
    const __m256i low = half_line(line, 0), high = half_line(line, 1);
    return {{_mm256_srai_epi16(_mm256_slli_epi16(low, 8), 8), _mm256_srai_epi16(_mm256_slli_epi16(high, 8), 8)},
            {_mm256_srai_epi16(low, 8), _mm256_srai_epi16(high, 8)}};
  }
  static X spread(const std::uint8_t* x) {
    const __m256i all = _mm256_set1_epi32(four(x)), byte = _mm256_set1_epi16(0x00ff);
    return {_mm256_and_si256(all, byte), _mm256_srli_epi16(all, 8)};
  }
  static Acc dot(Acc a, const X& x, const W& w) {
    const auto half = [&](__m256i sum, __m256i even, __m256i odd) {
      return _mm256_add_epi32(sum, _mm256_add_epi32(_mm256_madd_epi16(x.even, even), _mm256_madd_epi16(x.odd, odd)));
    };
    return {half(a.low, w.even.low, w.odd.low), half(a.high, w.even.high, w.odd.high)};
  }

  // k codes, a multiple of 16.
  static void widen(const std::uint8_t* x, std::size_t k, std::int16_t* out) {
    for (std::size_t t = 0; t < k; t += 16) {
      const __m256i words = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + t)));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + t), words);
    }
  }

  // acc[r] = x[r] . w over all lines.
  template <int R>
  static void sum_rows(const std::int16_t* x, std::size_t ldx, const std::byte* w, std::size_t bytes, Acc (&acc)[R]) {
    alignas(kLine) __m256i low[R], high[R];
    sum_half<R>(x, ldx, w, bytes / kTile, low);
    sum_half<R>(x, ldx, w + kLine / 2, bytes / kTile, high);
    for (int r = 0; r < R; ++r) acc[r] = {low[r], high[r]};
  }

  // The same of int4, codes as they are: a code below 16 and a byte make products that vpmaddubsw cannot saturate, four
  // of them in one 16-bit sum (4 x 2 x 15 x 255 < 2^15); what widens these sums multiplies them by their group's mult.
  template <int R>
  static void sum_nibbles(const MatmulQ& a, std::size_t i, std::size_t first, const std::byte* w, Acc (&acc)[R]) {
    const std::size_t at = first * (padded_k(DType::kI4, a.k) / a.group);
    alignas(kLine) __m256i low[R], high[R];
    nibble_half<R>(a, i, w, at, low);
    nibble_half<R>(a, i, w + kLine / 2, at + 8, high);
    for (int r = 0; r < R; ++r) acc[r] = {low[r], high[r]};
  }

 private:
  // Of the 8 outputs that half of each line holds. A register of sums has two for each of four outputs: of the first
  // and of the second pair of every four k. A function of its own, because within another GCC keeps the sums in memory.
  template <int R>
  [[gnu::noinline]] static void sum_half(const std::int16_t* x, std::size_t ldx, const std::byte* w, std::size_t k,
                                         __m256i* out) {
    __m256i first[R], second[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) first[r] = second[r] = _mm256_setzero_si256();
    for (std::size_t t = 0; t < k; t += 4) {
      const __m256i w0 = _mm256_cvtepi8_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(w)));
      const __m256i w1 = _mm256_cvtepi8_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(w) + 1));
      w += kLine;
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        long long four;
        std::memcpy(&four, x + static_cast<std::size_t>(r) * ldx + t, sizeof four);
        const __m256i spread = _mm256_set1_epi64x(four);
        first[r] = _mm256_add_epi32(first[r], _mm256_madd_epi16(spread, w0));
        second[r] = _mm256_add_epi32(second[r], _mm256_madd_epi16(spread, w1));
        // One row after the other: GCC would else begin all of them and run out of registers.
        __asm__ volatile("" : "+x"(first[r]), "+x"(second[r]));
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      out[r] = _mm256_permute4x64_epi64(_mm256_hadd_epi32(first[r], second[r]), 0xd8);
    }
  }

  // Of the 8 outputs that half of each line holds; `at` is where the mults of the first group stand.
  template <int R>
  [[gnu::noinline]] static void nibble_half(const MatmulQ& a, std::size_t i, const std::byte* w, std::size_t at,
                                            __m256i* out) {
    const std::size_t runs = padded_k(DType::kI4, a.k) / kSumRun;
    const __m256i nibble = _mm256_set1_epi8(0x0f);
    const std::uint8_t* x = a.x + i * a.ldx;
    const std::int32_t* sums = a.xsums + i * a.ldsums;
    __m256i total[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) total[r] = _mm256_setzero_si256();
    for (std::size_t run = 0; run < runs; ++run, x += kSumRun, ++sums) {
      const std::size_t group = at + run * kSumRun / a.group * kTile;
      const __m256i mult = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(a.mult + group)));
      const __m256i offset =
          a.offset == nullptr
              ? _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_slli_epi32(mult, 3))
              : _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(a.offset + group)));
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {  // a sum over 32 bytes has 16 bits, and zeros above them
        const __m256i sum = _mm256_set1_epi32(sums[static_cast<std::size_t>(r) * a.ldsums]);
        total[r] = _mm256_add_epi32(total[r], _mm256_madd_epi16(sum, offset));
      }
      const __m256i mults = _mm256_or_si256(mult, _mm256_slli_epi32(mult, 16));
      for (std::size_t t = 0; t < kSumRun; t += 16, w += 2 * kLine) {
        const __m256i c0 = _mm256_load_si256(reinterpret_cast<const __m256i*>(w));
        const __m256i c1 = _mm256_load_si256(reinterpret_cast<const __m256i*>(w + kLine));
        const __m256i low0 = _mm256_and_si256(c0, nibble), high0 = _mm256_and_si256(_mm256_srli_epi16(c0, 4), nibble);
        const __m256i low1 = _mm256_and_si256(c1, nibble), high1 = _mm256_and_si256(_mm256_srli_epi16(c1, 4), nibble);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const std::uint8_t* row = x + static_cast<std::size_t>(r) * a.ldx + t;
          const auto products = [row](int k, __m256i codes) {
            return _mm256_maddubs_epi16(_mm256_set1_epi32(four(row + k)), codes);
          };
          const __m256i first = _mm256_add_epi16(products(0, low0), products(4, high0));
          const __m256i second = _mm256_add_epi16(products(8, low1), products(12, high1));
          total[r] = _mm256_add_epi32(total[r], _mm256_madd_epi16(_mm256_add_epi16(first, second), mults));
          __asm__ volatile("" : "+x"(total[r]));  // as above
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) out[r] = total[r];
  }
};

}  // namespace

const Kernels kTable = simd::table<Vec, Products>();

}  // namespace gpt2::kernels::avx2
