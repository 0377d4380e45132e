// Resident pages of a mapped file, given back once what they hold has been copied.
//
// Why: a checkpoint that is packed at load would otherwise count twice, as the packed copy and as the pages of the file
// that were read for it, for as long as the map lives. It knows no formats.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>

namespace gpt2 {

// Gives back the pages that lie wholly within [from, from + bytes) of a map of a file that nobody writes to. They stay
// readable: who touches one again gets it from the page cache, or from the disk. Never for other memory, which would
// become zeros.
inline void release_pages(const void* from, std::size_t bytes) {
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto first = reinterpret_cast<std::uintptr_t>(from);
  const std::uintptr_t begin = (first + page - 1) / page * page, end = (first + bytes) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);  // a refusal costs only memory
}

}  // namespace gpt2
