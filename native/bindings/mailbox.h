// What bindings/engine.cc and bindings/branches.cc share of the Mailbox.
#pragma once
#include <nanobind/nanobind.h>

#include <memory>

#include "engine/engine.h"

namespace gpt2::bindings {

// (length of the branch, [(token, logprob, [(id, logprob)])], ids, scores, logits, hidden, layers); None for what was
// not asked for.
nanobind::object reply_tuple(std::unique_ptr<Reply> reply, const Config& config);

// What Python holds of an adapter: it lives on in the requests that use it.
struct LoadedAdapter {
  AdapterPtr adapter;
};
inline AdapterPtr adapter_of(const LoadedAdapter* loaded) { return loaded == nullptr ? nullptr : loaded->adapter; }

void bind_branches(nanobind::class_<Mailbox>& mailbox);

}  // namespace gpt2::bindings
