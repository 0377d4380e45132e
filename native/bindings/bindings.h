// What the binding files share: nanobind and the list of the bind functions.
#pragma once
#include <nanobind/nanobind.h>

#include <exception>

namespace gpt2::bindings {

// The exception that Python would get; needs the interpreter's lock.
nanobind::object exception_object(const std::exception_ptr& error);

void bind_errors(nanobind::module_& m);
void bind_tokenizer(nanobind::module_& m);
void bind_sampler(nanobind::module_& m);
void bind_engine(nanobind::module_& m);

}  // namespace gpt2::bindings
