#include "bindings/bindings.h"

namespace gpt2::bindings {

void bind_tokenizer(nanobind::module_&) {}

}  // namespace gpt2::bindings
