// Lists of sequences that are sorted by age, oldest first; and how many blocks some tokens need. For the scheduler.
#pragma once
#include <algorithm>
#include <vector>

#include "scheduler/sequence.h"

namespace gpt2::scheduler {

inline std::size_t blocks_for(std::size_t tokens) { return (tokens + kBlockTokens - 1) / kBlockTokens; }

inline bool by_age(const Sequence* a, const Sequence* b) { return a->older_than(*b); }

inline void insert_by_age(std::vector<Sequence*>& list, Sequence& s) {
  list.insert(std::upper_bound(list.begin(), list.end(), &s, by_age), &s);
}

inline void erase_from(std::vector<Sequence*>& list, const Sequence& s) {
  list.erase(std::find(list.begin(), list.end(), &s));
}

}  // namespace gpt2::scheduler
