"""A story in turns that forks: both branches share what was computed before, and go on after a save."""

import gpt2

lm = gpt2.load()
story = lm.session(preset="story", template="story", seed=7, max_new_tokens=40)
print(story.generate("It was a dark night, and the old house").text)
left, right = story.branch(), story.branch()
for branch, door in ((left, "left"), (right, "right")):
    print(f"--- {door} ---")
    print(branch.generate(f"She opened the door on the {door}, and").text)

left.save("left.json")
again = lm.restore_session("left.json")
assert again.generate("At last").text == left.generate("At last").text
print(f"{lm.stats().prefix_hit_tokens} tokens were found, not computed again")
