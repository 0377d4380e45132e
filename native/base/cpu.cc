#include "base/cpu.h"

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
#else
bool has_avx2() { return false; }
bool has_avx512() { return false; }
#endif

std::string names(const std::vector<Isa>& isas) {
  std::string out;
  for (Isa isa : isas) out += (out.empty() ? "" : ", ") + std::string(isa_name(isa));
  return out;
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kGeneric: return "generic";
    case Isa::kAvx2: return "avx2";
    case Isa::kAvx512: return "avx512";
  }
  return "?";
}

std::vector<Isa> available_isas() {
  std::vector<Isa> out = {Isa::kGeneric};
  if (has_avx2()) out.push_back(Isa::kAvx2);
  if (has_avx512()) out.push_back(Isa::kAvx512);
  return out;
}

Isa choose_isa(const std::string& name) {
  const std::vector<Isa> have = available_isas();
  if (name.empty() || name == "auto") return have.back();
  for (Isa isa : have) {
    if (name == isa_name(isa)) return isa;
  }
  throw Error(ErrorKind::kEngine, "instruction set (GPT2_ISA)", "'" + name + "'",
              "one that this machine has: auto, " + names(have));
}

}  // namespace gpt2
