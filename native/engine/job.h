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
  AdapterPtr adapter;
  sampling::State sampling;
  std::uint32_t draw = 0;  // the alternative by which its tokens are drawn
  std::vector<Job*> held;  // of the first alternative: those that go on from where it has encoded the prompt
  Job* first = nullptr;    // of a held one
  std::size_t unread = 0, most_unread = 0;
  bool asleep = false;     // paused by its caller
  bool in_step = false;    // the step that runs uses it
  bool cancelled = false;  // while in_step or borrowed

  // Of a branch.
  std::size_t prompt_length = 0;
  Ask ask;                       // what its extension wants
  std::unique_ptr<Reply> reply;  // what is known of it
  bool settled = false;          // a choice was not the guess: no more are made
  bool borrowed = false;         // a caller computes with it outside the mutex

  bool idle() const { return state == scheduler::State::kIdle; }
  // The window's first position whose results are wanted.
  std::size_t first_row() const { return window() - reply->rows; }
  // How many tokens are sure, the guesses that were found right among them.
  std::size_t sure() const { return tokens.size() - guesses; }
  Job* next_orphan = nullptr;
};

// `seconds` from now, for the scheduler; 0 or less: never.
std::int64_t deadline_after(double seconds);

}  // namespace gpt2
