// gpt2._native: the list of what Python sees of the native code. Each bind_* lives in the file of its class.
#include "bindings/bindings.h"

NB_MODULE(_native, m) {
  m.doc() = "Native part of gpt2: tokenizer, sampler and CPU engine. Use the gpt2 package, not this module.";
  gpt2::bindings::bind_errors(m);
  gpt2::bindings::bind_tokenizer(m);
  gpt2::bindings::bind_sampler(m);
  gpt2::bindings::bind_engine(m);
}
