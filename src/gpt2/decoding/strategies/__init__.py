"""Decoding that is more than one token drawn after the other: generators over branches of text (tree.py).

table.py says which options ask for which. frontier.py is what all beam searches share (hypotheses.py the
texts that are complete, ending.py when one is); drawn.py what those share that draw token by token:
speculation.py, custom.py, and masked.py, whose masks come from grammar.py or healing.py. A strategy knows no
model, no batch and no thread.
"""
