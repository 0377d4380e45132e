// One alternative of a request inside the engine: what the scheduler keeps of it, how its tokens are chosen, and to
// whom they go.
#pragma once
#include <vector>

#include "engine/mailbox.h"
#include "scheduler/sequence.h"

namespace gpt2 {

struct Job : scheduler::Sequence {
  Mailbox* box = nullptr;  // null: nobody waits for it any more, and the step that uses it deletes it
  std::uint64_t request = 0;
  sampling::Params params;
  sampling::State sampling;
  std::vector<Job*> held;  // of the first alternative: those that go on from where it has encoded the prompt
  Job* first = nullptr;    // of a held one
  std::size_t unread = 0, most_unread = 0;
  bool asleep = false;     // paused by its caller
  bool in_step = false;    // the step that runs uses it
  bool cancelled = false;  // while in_step
  Job* next_orphan = nullptr;
};

}  // namespace gpt2
