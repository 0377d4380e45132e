// Loops of a fixed, small number of turns, written out before the optimiser looks at them.
//
// Why: a register tile is an array of registers. Only when every index is a constant from the start do compilers keep
// all of it in registers; loops that are unrolled late leave copies of the array in memory.
#pragma once
#include <type_traits>
#include <utility>

namespace gpt2::kernels::simd {

// body(0), body(1), ... body(N - 1), each index a std::integral_constant<int, ...>.
template <int N, class Body>
[[gnu::always_inline]] inline void unrolled(const Body& body) {
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    (body(std::integral_constant<int, I>{}), ...);
  }
  (std::make_integer_sequence<int, N>{});
}

}  // namespace gpt2::kernels::simd
