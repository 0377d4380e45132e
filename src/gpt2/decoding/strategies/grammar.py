"""Text that obeys a JSON schema, a regular expression, choices or a Lark grammar, through llguidance.

    grammars = Grammars(tokenizer, vocab_size)
    follower = grammars.follow(structure_of(params), closers)

llguidance (MIT, https://github.com/guidance-ai/llguidance) parses the grammar and says which tokens may come
next; here is what it is given and what its answers mean. It is imported with the first grammar. No model is
known here, and of a tokenizer only its tokens' bytes.

White space in JSON is bounded, since a small model that may write a space may write spaces for ever: none,
but for at most one space after each comma and colon. Members of an object come in the schema's order.

Where the grammar forces bytes, the one token that is allowed is the next of their own tokenization, so that
forced text has the ids that encode() gives it.

V vocabulary size, W = ceil(V / 32).
"""

from __future__ import annotations

import json
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np

from gpt2.errors import InvalidRequest

if TYPE_CHECKING:
    import llguidance

    from gpt2.decoding.params import SamplingParams
    from gpt2.decoding.tree import Bits

T = TypeVar("T")
Kind: TypeAlias = Literal["json_schema", "regex", "choice", "grammar"]

MAX_BYTES: Final = 128 << 10
"""Of a grammar's text."""
MAX_SECONDS: Final = 10.0
"""That a grammar may take to be understood."""
MAX_STATES: Final = 50_000
"""Of the lexer of one grammar, for all its texts; a state takes 1 to 2 kB."""
KEPT: Final = 16
"""Grammars that are kept ready for the next request that has them."""
# Some of llguidance's walks over a grammar recurse: 128 KiB of rules that each name the next one need about
# 50 MB of stack, where the system's 8 MB end the process. The pages are taken only as they are touched.
_STACK_BYTES: Final = 256 << 20
_ITEM_SEPARATOR: Final = ", ?"
_KEY_SEPARATOR: Final = ": ?"


class Structure(NamedTuple):
    """The grammar of one request: which option gave it, and its text (choices: a JSON array)."""

    kind: Kind
    text: str


def structure_of(params: SamplingParams) -> Structure | None:
    """The grammar that the options ask for; None where they ask for none."""
    if params.json_schema is not None:
        return Structure("json_schema", params.json_schema)
    if params.regex is not None:
        return Structure("regex", params.regex)
    if params.choice:
        return Structure("choice", json.dumps(params.choice))
    return None if params.grammar is None else Structure("grammar", params.grammar)


class Vocabulary(Protocol):
    """What is used of a tokenizer."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def special_tokens(self) -> dict[str, int]: ...

    def token_bytes(self, id: int, /) -> bytes: ...

    def encode(self, text: str) -> list[int]: ...


class Grammars:
    """Grammars over one vocabulary. Safe to use from any number of threads.

    The first grammar makes llguidance's tables of the vocabulary: about a second for 50,257 tokens.
    """

    def __init__(self, tokenizer: Vocabulary, vocab_size: int) -> None:
        """vocab_size: V of the model, which may be more than the tokenizer's."""
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._lock, self._tables_lock = threading.Lock(), threading.Lock()
        self._tables: llguidance.LLTokenizer | None = None
        self._ready: OrderedDict[Structure, llguidance.LLMatcher] = OrderedDict()

    def follow(self, structure: Structure, closers: Collection[int]) -> Follower:
        """A Masker (masked.py) that follows one text from its beginning. `closers` are the tokens that end a
        text: they are allowed where the grammar may end, and nowhere else.

        Raises InvalidRequest with llguidance's words for a grammar that is wrong, cannot be satisfied, is too
        large, or takes too long.
        """
        return Follower(
            self._matcher(structure),
            lambda: self._matcher(structure, anew=True),
            self._vocab_size,
            sorted(closers),
        )

    def _matcher(self, structure: Structure, *, anew: bool = False) -> llguidance.LLMatcher:
        with self._lock:
            ready = None if anew else self._ready.get(structure)
        if ready is None:
            ready = _compile(structure, self._tables_of_vocabulary(), trial=not anew)
        with self._lock:
            self._ready[structure] = ready
            self._ready.move_to_end(structure)
            if len(self._ready) > KEPT:
                self._ready.popitem(last=False)
        return ready.deep_copy()

    def _tables_of_vocabulary(self) -> llguidance.LLTokenizer:
        with self._tables_lock:
            if self._tables is None:
                self._tables = _tables(self._tokenizer, self._vocab_size)
            return self._tables


class Follower:
    """A Masker (masked.py) that follows one text through a grammar.

    The matchers of one grammar share what its lexer has learnt of it, and that has a limit. One that other
    texts have filled must not end this one: at an error the grammar is read anew, and the text with it.
    """

    def __init__(
        self,
        matcher: llguidance.LLMatcher,
        anew: Callable[[], llguidance.LLMatcher],
        vocab_size: int,
        closers: Sequence[int],
        tokens: Sequence[int] = (),
    ) -> None:
        self._matcher = matcher
        self._anew = anew
        self._vocab_size = vocab_size
        self._closers = closers
        self._tokens = list(tokens)

    def mask(self) -> Bits:
        """The tokens that may come next, uint32 [W]; no bit where the grammar allows nothing more.

        Raises InvalidRequest where the grammar is too complex for the text so far.
        """
        raw = self._asked(lambda matcher: matcher.compute_bitmask())
        end = self._vocab_size  # the id after the last one stands for the end, see _tables()
        may_end = raw[end // 8] >> end % 8 & 1
        mask = np.frombuffer(raw, dtype="<u4", count=(end + 31) // 32).astype(np.uint32)
        if end % 32:
            mask[-1] &= np.uint32((1 << end % 32) - 1)
        for closer in self._closers:
            mask[closer // 32] &= np.uint32(~(1 << closer % 32) & 0xFFFFFFFF)
        if may_end and mask.any():
            for closer in self._closers:
                mask[closer // 32] |= np.uint32(1 << closer % 32)
        return mask

    def push(self, token: int) -> None:
        self._asked(lambda matcher: matcher.consume_token(token))
        self._tokens.append(token)

    def fork(self) -> Follower:
        matcher = self._matcher.deep_copy()
        return Follower(matcher, self._anew, self._vocab_size, self._closers, self._tokens)

    def _asked(self, ask: Callable[[llguidance.LLMatcher], T]) -> T:
        answer = ask(self._matcher)
        if self._matcher.is_error():
            self._matcher = self._anew()
            self._matcher.consume_tokens(self._tokens)
            answer = ask(self._matcher)
        if self._matcher.is_error():
            raise _refusal("the grammar cannot be followed further", self._matcher.get_error())
        return answer


class _Wrapper:
    """A tokenizer as llguidance wants to see one.

    It holds its tokenizer weakly, since llguidance's tables hold the wrapper out of the garbage collector's
    sight: whoever keeps the tables beside the tokenizer would keep both for ever.
    """

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Vocabulary, vocab_size: int) -> None:
        known = tokenizer.vocab_size
        self.eos_token_id = vocab_size
        # Rows of a padded embedding, and the end, need names, each its own.
        names = [b"<|%d|>" % i for i in range(known, vocab_size + 1)]
        self.tokens = [tokenizer.token_bytes(i) for i in range(known)] + names
        self.special_token_ids = [*tokenizer.special_tokens.values(), *range(known, vocab_size + 1)]
        self._tokenizer = weakref.ref(tokenizer)

    def __call__(self, text: str) -> list[int]:
        tokenizer = self._tokenizer()
        return tokenizer.encode(text) if tokenizer is not None else []


def _tables(tokenizer: Vocabulary, vocab_size: int) -> llguidance.LLTokenizer:
    """llguidance's view of the vocabulary. The token that ends a text is not one of the model's but one more,
    V, so that the tables do not depend on what ends the text of this or that request."""
    import llguidance

    wrapper: Any = _Wrapper(tokenizer, vocab_size)
    # Tokens of one slice are allowed at a stroke where the grammar allows all of it: text in JSON strings, as
    # llguidance itself has it, and words. An expression of letters then takes 0.3 ms and not 0.9.
    slices = ["[a-zA-Z ]{1,10}", "[a-z]+", *llguidance.LLTokenizer.general_slices()]
    return llguidance.LLTokenizer(wrapper, n_vocab=vocab_size + 1, eos_token=vocab_size, slices=slices)


def _compile(structure: Structure, tables: llguidance.LLTokenizer, *, trial: bool) -> llguidance.LLMatcher:
    """The grammar at its beginning; trial: it is tried out. In a thread with a large stack, of which nobody
    waits longer than MAX_SECONDS."""
    size = len(structure.text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise InvalidRequest(structure.kind, got=f"{size:,} bytes", expected=f"at most {MAX_BYTES:,}")
    found: list[llguidance.LLMatcher | Exception] = []
    # The size is that of threads to come, in the whole process; one that is begun elsewhere in between has
    # more room than it needs.
    usual = threading.stack_size(_STACK_BYTES)
    try:
        args = structure, tables, trial, found
        thread = threading.Thread(target=_understood, args=args, daemon=True)
        thread.start()
    finally:
        threading.stack_size(usual)
    thread.join(MAX_SECONDS)
    if not found:
        raise _refusal(structure.kind, f"not understood within {MAX_SECONDS:.0f} s", "a simpler grammar")
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


def _understood(
    structure: Structure,
    tables: llguidance.LLTokenizer,
    trial: bool,
    found: list[llguidance.LLMatcher | Exception],
) -> None:
    """Append what came of it; an error is raised by the thread that waits."""
    import llguidance

    try:
        limits = llguidance.LLParserLimits(max_lexer_states=MAX_STATES, verbose_errors=False)
        matcher = llguidance.LLMatcher(tables, _source(structure), log_level=0, limits=limits)
        tried = matcher.deep_copy()
        if trial and not tried.is_error():
            tried.compute_bitmask()  # the first mask takes the longest, and finds what cannot begin
        found.append(_refusal(structure.kind, tried.get_error()) if tried.is_error() else matcher)
    except ValueError as error:
        found.append(_refusal(structure.kind, str(error)))
    except Exception as error:
        found.append(error)


def _source(structure: Structure) -> str:
    """The grammar in llguidance's form."""
    from llguidance import LLMatcher

    if structure.kind == "json_schema":
        return LLMatcher.grammar_from_json_schema(
            structure.text,
            overrides={  # the schema's own wishes ("x-guidance") do not count
                "whitespace_flexible": False,
                "whitespace_pattern": None,
                "item_separator": _ITEM_SEPARATOR,
                "key_separator": _KEY_SEPARATOR,
                "coerce_one_of": False,
                "lenient": False,
            },
        )
    if structure.kind == "regex":
        return LLMatcher.grammar_from_regex(structure.text)
    if structure.kind == "choice":
        # One terminal: a text that begins another choice is then no ambiguity.
        choices: Sequence[str] = json.loads(structure.text)
        return LLMatcher.grammar_from_lark(f"start: TEXT\nTEXT: {' | '.join(json.dumps(c) for c in choices)}")
    return LLMatcher.grammar_from_lark(structure.text)


def _refusal(what: str, words: str, hint: str | None = None) -> InvalidRequest:
    """llguidance's words without the state of its parser, and not all of a long grammar again."""
    said = words.split("\n<")[0].strip() or "nothing can be generated"
    got = said if len(said) <= 400 else said[:397] + "..."
    return InvalidRequest(what, got=got, expected="what llguidance takes, and some text can obey", hint=hint)
