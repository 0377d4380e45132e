#include "base/cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

#include "base/errors.h"

namespace gpt2 {
namespace {

#if defined(__x86_64__)
// __builtin_cpu_supports also asks the operating system (XGETBV) whether it saves the wide registers.
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

// XCR0: which registers the operating system saves. Only where CPUID has OSXSAVE.
unsigned saved_state() {
  unsigned low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

// Tiles of int8 and bfloat16, beside AVX-512 with VNNI. Linux gives the 8 KiB of tiles to a process that asks for them
// (Documentation/arch/x86/xstate.rst), for all its threads; to ask again changes nothing.
bool has_amx() {
  constexpr unsigned kOsXsave = 1u << 27, kTiles = 1u << 24, kInt8 = 1u << 25, kBf16 = 1u << 22, kState = 3u << 17;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!has_avx512_vnni() || __get_cpuid(1, &a, &b, &c, &d) == 0 || (c & kOsXsave) == 0) return false;
  constexpr unsigned kAll = kTiles | kInt8 | kBf16;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & kAll) != kAll) return false;
  if ((saved_state() & kState) != kState) return false;
  static const bool permitted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return permitted;
}
// Leaf 7, subleaf 1, EAX bit 5.
bool has_avx512_bf16() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return has_avx512_vnni() && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 5 & 1) != 0;
}

// By the maker's name and not by a measurement: two starts of one program on one machine must have the same bits.
bool fast_avx512_bf16() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!has_avx512_bf16() || __get_cpuid(0, &a, &b, &c, &d) == 0) return false;
  constexpr unsigned kAuth = 0x68747541, kEnti = 0x69746e65, kCamd = 0x444d4163;  // AuthenticAMD
  return b == kAuth && d == kEnti && c == kCamd;
}
#else
bool has_amx() { return false; }
bool has_avx512_bf16() { return false; }
bool fast_avx512_bf16() { return false; }
bool has_avx2() { return false; }
bool has_avx512() { return false; }
#endif

std::string names(const std::vector<Isa>& isas) {
  std::string out;
  for (Isa isa : isas) out += (out.empty() ? "" : ", ") + std::string(isa_name(isa));
  return out;
}

}  // namespace

#if defined(__x86_64__)
bool has_avx512_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
// Leaf 7, subleaf 1, EAX bit 4; older compilers' __builtin_cpu_supports does not know the name.
bool has_avx_vnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 4 & 1) != 0;
}
#else
bool has_avx512_vnni() { return false; }
bool has_avx_vnni() { return false; }
#endif

#if defined(__aarch64__)
// The bits of Linux's asm/hwcap.h, by number: older headers lack the second name. Every 64-bit ARM of Linux has NEON.
bool has_neon_dot() { return (getauxval(AT_HWCAP) >> 20 & 1) != 0; }                      // ASIMDDP
bool has_neon_i8mm() { return has_neon_dot() && (getauxval(AT_HWCAP2) >> 13 & 1) != 0; }  // I8MM
#else
bool has_neon_dot() { return false; }
bool has_neon_i8mm() { return false; }
#endif

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kGeneric: return "generic";
    case Isa::kAvx2: return "avx2";
    case Isa::kAvx512: return "avx512";
    case Isa::kAvx512Bf16: return "avx512bf16";
    case Isa::kAmx: return "amx";
    case Isa::kNeon: return "neon";
  }
  return "?";
}

std::vector<Isa> available_isas() {
  std::vector<Isa> out = {Isa::kGeneric};
  if (has_avx2()) out.push_back(Isa::kAvx2);
  if (has_avx512()) out.push_back(Isa::kAvx512);
#if defined(__aarch64__)
  out.push_back(Isa::kNeon);
#endif
  return out;
}

std::vector<Isa> rounding_isas() {
  std::vector<Isa> out;
  if (has_avx512_bf16()) out.push_back(Isa::kAvx512Bf16);
  if (has_amx()) out.push_back(Isa::kAmx);
  return out;
}

Isa choose_isa(const std::string& name, bool rounding) {
  const std::vector<Isa> have = available_isas();
  if (name.empty() || name == "auto") return rounding && fast_avx512_bf16() ? Isa::kAvx512Bf16 : have.back();
  for (Isa isa : have) {
    if (name == isa_name(isa)) return isa;
  }
  const std::vector<Isa> others = rounding_isas();
  for (Isa isa : others) {
    if (name == isa_name(isa)) return isa;
  }
  throw Error(ErrorKind::kEngine, "instruction set (GPT2_ISA)", "'" + name + "'",
              "one that this machine has: auto, " + names(have) + (others.empty() ? "" : ", " + names(others)));
}

}  // namespace gpt2
