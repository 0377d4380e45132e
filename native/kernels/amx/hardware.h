// The tile unit of AMX. Tiles are numbers in the instructions' text, so the instructions are written out: a compiler
// of today's age has no registers to give them. Each names the memory that it reads or writes, the configuration too:
// the intrinsic of GCC 12 names 8 of its 64 bytes, and the stores of the others may be dropped before it.
#pragma once
#include "kernels/amx/tiles.h"

namespace gpt2::kernels::amx {
namespace {

struct Hardware {
  void configure(const TileConfig& c) { asm volatile("ldtilecfg %0" : : "m"(c)); }
  void release() { asm volatile("tilerelease" : :); }

  template <int T>
  void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(T));
  }
  template <int T>
  void load(const std::byte* p, std::size_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(T) : "memory");
  }
  template <int T>
  void store(std::byte* p, std::size_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(stride), "i"(T) : "memory");
  }
  // C += A (unsigned bytes) . B (signed bytes)
  template <int C, int A, int B>
  void dot_bytes() {
    asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
  }
  // C += A . B of bfloat16
  template <int C, int A, int B>
  void dot_pairs() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
  }
};

}  // namespace
}  // namespace gpt2::kernels::amx
