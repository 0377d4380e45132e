// What the binding files share: nanobind and the list of the bind functions.
#pragma once
#include <nanobind/nanobind.h>

#include <cstddef>
#include <exception>
#include <functional>
#include <vector>

namespace gpt2::bindings {

// The exception that Python would get; needs the interpreter's lock.
nanobind::object exception_object(const std::exception_ptr& error);

// A new numpy array of float32 of this shape, filled without the interpreter's lock.
nanobind::object float_array(std::vector<std::size_t> shape, const std::function<void(float*)>& fill);

void bind_errors(nanobind::module_& m);
void bind_tokenizer(nanobind::module_& m);
void bind_sampler(nanobind::module_& m);
void bind_engine(nanobind::module_& m);

}  // namespace gpt2::bindings
