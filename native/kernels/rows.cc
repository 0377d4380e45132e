// The parts of the row kernels that are a few scalar operations: one copy for every instruction set.
#include "kernels/rows.h"

#include <cmath>

namespace gpt2::kernels {

Quantized quantized_range(float low, float high, float odd) {
  if (!(odd == 0.0f)) return {NAN, 0};
  const float scale = high / 255.0f - low / 255.0f;  // two divisions: the difference of the ends may overflow
  if (!(scale > 0.0f)) return {0.0f, 0};
  const float zero = round_even(-low / scale);
  return {scale, static_cast<std::int32_t>(zero > 255.0f ? 255.0f : zero)};
}

}  // namespace gpt2::kernels
