// The table of kernels that a test program is to test: GPT2_ISA names it as it does for the engine, or "amx-software"
// and "avx512bf16-software", the kernels of those sets on a unit in plain C++.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <string>

#include "kernels/table.h"

// What ctest takes for "skipped" (SKIP_RETURN_CODE).
inline constexpr int kSkipped = 77;

// Whether it sums products of bfloat16 pair by pair.
inline bool by_pairs() {
  const char* name = std::getenv("GPT2_ISA");
  return name != nullptr && std::string(name).starts_with("avx512bf16");
}

inline gpt2::kernels::Kernels table() {
  const char* name = std::getenv("GPT2_ISA");
#if defined(__x86_64__)
  if (name != nullptr && std::string(name) == "amx-software") {
    if (!gpt2::has_avx512_vnni()) {
      std::puts("skipped: the kernels of AMX need AVX-512 VNNI beside the tiles");
      std::exit(kSkipped);
    }
    gpt2::kernels::Kernels out = gpt2::kernels::kernels_for(gpt2::Isa::kAvx512);
    out.matmul = gpt2::kernels::amx::kSoftwareMatmul;
    out.matmul_q = gpt2::kernels::amx::kSoftwareMatmulQ;
    out.narrow = gpt2::kernels::amx::kSoftwareNarrow;
    return out;
  }
  if (name != nullptr && std::string(name) == "avx512bf16-software") {
    gpt2::kernels::Kernels out = gpt2::kernels::kernels_for(gpt2::choose_isa("avx2"));
    out.matmul = gpt2::kernels::avx512bf16::kTwinMatmul;
    out.narrow = gpt2::kernels::avx512bf16::kPlainNarrow;
    return out;
  }
#endif
  return gpt2::kernels::kernels_for(gpt2::choose_isa(name == nullptr ? "auto" : name));
}
