// What the binding files share: nanobind and the list of the bind functions.
#pragma once
#include <nanobind/nanobind.h>

namespace gpt2::bindings {

void bind_errors(nanobind::module_& m);
void bind_tokenizer(nanobind::module_& m);
void bind_sampler(nanobind::module_& m);
void bind_engine(nanobind::module_& m);

}  // namespace gpt2::bindings
