// Float matrices into the tiles that the kernels read (kernels/types.h), in parallel.
#pragma once
#include <vector>

#include "base/aligned.h"
#include "base/thread_pool.h"
#include "kernels/types.h"

namespace gpt2::model {

// A matrix of float32 or bfloat16 as [k, n], or as [n, k] (turned); at any address. The pages of a mapped one are given
// back as it is packed, so that the file and the copy are never in memory together.
struct Source {
  const void* data;
  kernels::DType dtype;
  std::size_t k, n;
  bool turned;
  bool mapped = false;
};

// The tiles of the sources, each in its own dtype, one after the other in one piece of memory: a pass over a model
// reads it from end to end.
AlignedBytes pack(const std::vector<Source>& sources, ThreadPool& pool);

}  // namespace gpt2::model
