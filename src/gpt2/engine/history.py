"""What of a reply stays in a session, and where its window stands: arithmetic on lengths and tokens.

Knows no engine. That the window moves here as it does in native/scheduler is held together by
tests/engine/test_session.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from gpt2.protocols import FinishReason, Tokenizer


def window_at_start(window: int, length: int, positions: int) -> int:
    """Where the window begins for a prompt that ends at `length`: moved to the last half of the positions if
    the prompt does not fit, else where it was."""
    return window if length - window <= positions else length - max(1, positions // 2)


def window_after(window: int, length: int, generated: int, positions: int) -> int:
    """Where it begins after tokens were added one by one to a prompt of this `length`: each time that the
    positions are exceeded it moves to their last half, before the next token."""
    step = positions + 1 - max(1, positions // 2)
    while generated > 0 and length + generated - 1 - window > positions:
        window += step
    return window


def kept_tokens(
    tokens: Sequence[int],
    text: str,
    finish: FinishReason | None,
    stop: str | int | None,
    tokenizer: Tokenizer | None,
) -> list[int]:
    """The tokens of a reply without what ended it.

    An end-of-text or stop token is dropped. Where a stop string ended it, or its reader had enough (finish is
    None), the tokens that lie wholly in `text` stay, and the rest of the text is encoded anew.
    """
    if finish == "eos" or (finish == "stop" and isinstance(stop, int)):
        return list(tokens[:-1])
    if finish in ("length", "context") or tokenizer is None:
        return list(tokens)
    for count in range(len(tokens), -1, -1):
        whole = tokenizer.decode(tokens[:count])
        if text.startswith(whole):
            return [*tokens[:count], *tokenizer.encode(text[len(whole) :])]
    return tokenizer.encode(text)
