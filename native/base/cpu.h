// What this CPU can do, asked once, and which instruction set the kernels are to use.
#pragma once
#include <string>
#include <vector>

namespace gpt2 {

enum class Isa { kGeneric, kAvx2, kAvx512, kAvx512Bf16, kAmx, kNeon };

const char* isa_name(Isa isa);

// The instruction sets that this build has and this CPU and operating system can run, slowest first: those that give
// the same bits for every width.
std::vector<Isa> available_isas();

// Those that this machine has besides: AVX-512 BF16 and AMX, which round activations to bfloat16 beside bfloat16
// weights. They run where that is asked for (choose_isa); AMX by name only, since it has never been seen on a processor
// (kernels/amx).
std::vector<Isa> rounding_isas();

// Integer products of bytes in one instruction, beside AVX2 and beside AVX-512; beside NEON of two signs (dot) or of
// both, and as a product of matrices (i8mm).
bool has_avx_vnni();
bool has_avx512_vnni();
bool has_neon_dot();
bool has_neon_i8mm();

// name: "auto" or "" for the fastest of available_isas(), else "generic", "avx2", "avx512", "avx512bf16", "amx",
// "neon". With `rounding` "auto" is AVX-512 BF16 where its products are faster than float32's: AMD since Zen 4, not
// Intel's servers. Throws kEngine for a name that is unknown, or that this machine lacks.
Isa choose_isa(const std::string& name, bool rounding = false);

}  // namespace gpt2
