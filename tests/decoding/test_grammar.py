"""Text that a grammar asked for is text of that grammar, whatever the model would rather say.

The judges are the stdlib's json with jsonschema, re, and lark; the model is the bundled one, and for the
edges a function that gives every text the same logits.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import gpt2
from decoding.structures import SCHEMAS, TOKENS, judges
from decoding.trees import FakeTree, Text, run
from gpt2.decoding import SamplingParams
from gpt2.decoding.strategies import grammar
from gpt2.decoding.strategies.grammar import MAX_BYTES, Grammars, Structure, structure_of
from gpt2.decoding.strategies.masked import allowed, mask_of, masked, only
from gpt2.errors import InvalidRequest
from gpt2.tokenizer import Tokenizer

CASES = judges()
EOS = 268
"""Of the small vocabulary."""


@pytest.fixture(scope="module")
def small(small_vocab: Any) -> Tokenizer:
    return Tokenizer.load(small_vocab)


@pytest.fixture(scope="module")
def grammars(small: Tokenizer) -> Grammars:
    return Grammars(small, small.vocab_size + 5)  # as a padded embedding has it


def dice(vocab_size: int, seed: int = 0) -> Any:
    """Logits that know nothing: a few of thousands of fixed rows, chosen by the text's length and end."""
    table = np.random.default_rng(seed).normal(0, 3, (64, vocab_size)).astype(np.float32)
    return lambda ids: table[[(7 * at + id) % 64 for at, id in enumerate(ids)]]


def tree_of(
    small: Tokenizer, params: SamplingParams, ends: frozenset[int] = frozenset(), **options: Any
) -> FakeTree:
    vocab_size = small.vocab_size + 5
    return FakeTree(params, ends, vocab_size, dice(vocab_size), text=small.decode_bytes, **options)


def write(
    grammars: Grammars, small: Tokenizer, *, ends: Sequence[int] = (EOS,), seed: int = 0, **options: Any
) -> list[Text]:
    params = SamplingParams(**{"max_new_tokens": TOKENS, "seed": seed, **options})
    structure = structure_of(params)
    assert structure is not None
    closers = {*ends, *params.stop_token_ids}
    tree = tree_of(small, params, frozenset(ends))
    make = masked(lambda: grammars.follow(structure, closers))
    return run(tree, [5, 6, 7], make)


def text_of(small: Tokenizer, written: Text) -> str:
    tokens = written.tokens[:-1] if written.finish in ("eos", "stop") else written.tokens
    return small.decode_bytes(tokens).decode()


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_what_a_random_model_writes_obeys(case: Any, grammars: Grammars, small: Tokenizer) -> None:
    options, judge = CASES[case]
    for seed in range(3):
        for written in write(grammars, small, n=2, seed=seed, temperature=1.5, **options):
            assert written.finish in ("eos", "grammar")
            judge(text_of(small, written))


# --- what is allowed ---


def letters(small: Tokenizer, mask: Any) -> set[bytes]:
    return {small.token_bytes(int(i)) for i in allowed(mask) if i < EOS}


def test_the_end_is_allowed_exactly_where_the_grammar_may_end(grammars: Grammars, small: Tokenizer) -> None:
    a, b = (small.token_to_id(x) for x in "ab")
    follower = grammars.follow(Structure("regex", "a{2,3}b?"), {EOS, 3})
    seen = []
    for token in (a, a, a, b):
        assert token is not None
        seen.append(sorted(set(allowed(follower.mask())) & {EOS, 3}))
        follower.push(token)
    assert seen == [[], [], [3, EOS], [3, EOS]]
    assert not follower.mask().any(), "nothing may follow, not even the end"


def test_a_token_that_ends_the_text_is_no_text(grammars: Grammars, small: Tokenizer) -> None:
    """Even where its bytes would fit the grammar."""
    a, b = (small.token_to_id(x) for x in "ab")
    assert a is not None
    mask = grammars.follow(Structure("regex", "[ab]{2}"), {a}).mask()
    assert allowed(mask).tolist() == [b]


def test_special_and_padded_ids_are_never_text(grammars: Grammars) -> None:
    mask = grammars.follow(Structure("regex", "(?s:.*)"), ()).mask()
    assert mask.size == (EOS + 6 + 31) // 32
    assert allowed(mask).max() < EOS


def test_forks_go_their_own_ways(grammars: Grammars, small: Tokenizer) -> None:
    one = grammars.follow(Structure("choice", '["ab", "cd"]'), ())
    other = one.fork()
    one.push(small.token_to_id("a") or 0)
    other.push(small.token_to_id("c") or 0)
    assert (letters(small, one.mask()), letters(small, other.mask())) == ({b"b"}, {b"d"})


def test_masks() -> None:
    for tokens in ([], [0], [31], [32], [0, 31, 32, 69], range(70)):
        mask = mask_of(list(tokens), 70)
        assert mask.dtype == np.uint32
        assert mask.size == 3
        assert allowed(mask).tolist() == list(tokens)
        assert [t for t in range(70) if mask[t // 32] >> (t % 32) & 1] == list(tokens)
        assert only(mask) == (tokens[0] if len(tokens) == 1 else None)


# --- forced tokens ---


def test_forced_tokens_are_the_tokens_that_encode_gives(grammars: Grammars, small: Tokenizer) -> None:
    text = " the rest in sand"
    (written,) = write(grammars, small, choice=(text,))
    assert written.tokens == small.encode(text)
    assert written.finish == "grammar"


def test_what_is_forced_costs_no_step(grammars: Grammars, small: Tokenizer) -> None:
    params = SamplingParams(max_new_tokens=100)
    tree = tree_of(small, params)
    text = '"forced to the last letter "[xy]'
    make = masked(lambda: grammars.follow(Structure("regex", text), ()))
    (written,) = run(tree, [1], make)
    assert tree.waits == 1
    assert len(written.tokens) > 10


@pytest.mark.parametrize("case", [("json_schema", "character"), ("grammar", "commands")], ids="-".join)
def test_log_probabilities_change_no_token(case: Any, grammars: Grammars, small: Tokenizer) -> None:
    """They need a step for each forced token; and they are those of the model, over all of the vocabulary."""
    options = {**CASES[case][0], "n": 2, "temperature": 0.9, "top_p": 0.95, "repetition_penalty": 1.1}
    plain = write(grammars, small, **options)
    asked = write(grammars, small, logprobs=2, **options)
    logits = dice(small.vocab_size + 5)
    for one, other in zip(plain, asked, strict=True):
        assert (one.tokens, one.finish) == (other.tokens, other.finish)
        rows = logits([5, 6, 7, *other.tokens])[2:-1].astype(np.float64)
        exact = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
        assert other.logprobs == pytest.approx([row[t] for row, t in zip(exact, other.tokens, strict=True)])
        assert [[t for t, _ in best] for best in other.top] == [
            list(np.argsort(-row, kind="stable")[:2]) for row in exact
        ]


# --- together with the other options ---


def test_lengths(grammars: Grammars, small: Tokenizer) -> None:
    """Too few tokens end it unfinished, and say so; a minimum keeps off the end, but not all ends."""
    (cut,) = write(grammars, small, choice=("the rest of the text",), max_new_tokens=4)
    assert (len(cut.tokens), cut.finish) == (4, "length")
    (exact,) = write(grammars, small, regex="[ab]{3}", max_new_tokens=3)
    assert (len(exact.tokens), exact.finish) == (3, "grammar")
    for seed in range(5):
        (long,) = write(
            grammars, small, regex="[ab]{1,9}", min_new_tokens=6, seed=seed, stop_token_ids=(EOS,), logprobs=0
        )
        assert len(long.tokens) >= 6
    (ended,) = write(grammars, small, regex="[ab]{3}", min_new_tokens=6)
    assert (len(ended.tokens), ended.finish) == (3, "grammar")


def test_without_a_token_that_ends_the_text(grammars: Grammars, small: Tokenizer) -> None:
    """As with ignore_eos: it ends where nothing more may follow."""
    (written,) = write(grammars, small, ends=(), regex="[ab]{2,5}")
    assert (len(written.tokens), written.finish) == (5, "grammar")


def test_a_stop_token_may_come_where_the_grammar_may_end(grammars: Grammars, small: Tokenizer) -> None:
    stop = small.token_to_id("!") or 0
    finishes = set()
    for seed in range(12):
        (written,) = write(grammars, small, regex="[ab]{2,20}", stop_token_ids=(stop,), seed=seed)
        finishes.add(written.finish)
        assert stop not in written.tokens[:-1]
        assert 2 <= len(text_of(small, written)) <= 20
    assert "stop" in finishes


def test_an_alternative_does_not_depend_on_how_many_there_are(grammars: Grammars, small: Tokenizer) -> None:
    options: dict[str, Any] = {"json_schema": SCHEMAS["nested"]}
    many = write(grammars, small, n=4, **options)
    assert write(grammars, small, n=2, **options) == many[:2]
    assert len({tuple(w.tokens) for w in many}) == 4


def test_a_full_window_ends_it(grammars: Grammars, small: Tokenizer) -> None:
    params = SamplingParams(regex="[ab]{50}", seed=1)
    tree = tree_of(small, params, window=10)
    make = masked(lambda: grammars.follow(Structure("regex", "[ab]{50}"), ()))
    (written,) = run(tree, [1, 2, 3], make)
    assert written.finish == "context"
    assert len(written.tokens) <= 8


# --- white space ---


@pytest.mark.parametrize(
    ("text", "is_json"),
    [
        ('{"a":[1,2]}', True),
        ('{"a": [1, 2]}', True),
        ('{"a":  [1]}', False),
        ('{ "a":[1]}', False),
        ('{"a":[ 1]}', False),
        ('{"a":[1 ,2]}', False),
        ('{"a":[1,\n2]}', False),
        (' {"a":[1]}', False),
    ],
)
@pytest.mark.parametrize("asked", [None, {"whitespace_flexible": True, "item_separator": "\\s*,\\s*"}])
def test_white_space_is_bounded(
    text: str, is_json: bool, asked: Any, grammars: Grammars, small: Tokenizer
) -> None:
    """And a schema cannot ask for more by llguidance's own key."""
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}}
    follower = grammars.follow(
        Structure("json_schema", json.dumps({**schema, "x-guidance": asked or {}})), ()
    )
    try:
        for token in small.encode(text):
            follower.push(token)
    except InvalidRequest:
        assert not is_json
    else:
        assert is_json


# --- errors ---

REFUSED = {
    "json_schema": [
        ({"type": "strin"}, "strin"),
        ({"type": "object", "not": {}}, "not"),
        ({"type": "object", "not": {}, "x-guidance": {"lenient": True}}, "not"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"$ref": "#/$defs/nobody"}, "nobody"),
        ({"$ref": "https://example.org/schema"}, "example.org"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum (5)"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"$ref": "#"}, ""),
    ],
    "regex": [("(a", "unclosed group"), ("(?=a)b", "look-around"), (r"(a)\1", "backreferences")],
    "grammar": [("start: nobody", "nobody"), ("begin: /a/", "start"), ('start: "a', "")],
}


@pytest.mark.parametrize(
    ("kind", "text", "words"), [(kind, *case) for kind, cases in REFUSED.items() for case in cases]
)
def test_a_wrong_grammar_is_refused_with_the_reason(
    kind: Any, text: Any, words: str, grammars: Grammars
) -> None:
    params = SamplingParams(**{kind: text})
    structure = structure_of(params)
    assert structure is not None
    with pytest.raises(InvalidRequest) as raised:
        grammars.follow(structure, ())
    assert raised.value.what == kind
    assert words in str(raised.value)
    assert "<state>" not in str(raised.value)


def test_a_grammar_has_a_largest_size(grammars: Grammars) -> None:
    with pytest.raises(InvalidRequest, match="131,072"):
        grammars.follow(Structure("regex", "a" * (MAX_BYTES + 1)), ())


CHAINS = """
from gpt2.decoding.strategies.grammar import Grammars, MAX_BYTES, Structure
from gpt2.errors import InvalidRequest
from gpt2.tokenizer import Tokenizer

grammars = Grammars(tokenizer := Tokenizer.load({folder!r}), 269)
rules = "".join(f"r{{i}}: r{{i + 1}}\\n" for i in range(9000))
chain = f"start: r0\\n{{rules}}r9000: \\"x\\"\\n"
defs = ", ".join(f'"d{{i}}": {{{{"$ref": "#/$defs/d{{i + 1}}"}}}}' for i in range(3500))
schema = f'{{{{"$ref": "#/$defs/d0", "$defs": {{{{{{defs}}, "d3500": {{{{"type": "null"}}}}}}}}}}}}'
for kind, text in ("grammar", chain), ("json_schema", schema):
    assert MAX_BYTES // 2 < len(text) <= MAX_BYTES, len(text)
    assert grammars.follow(Structure(kind, text), ()).mask().any()
deep = '{{"items":' * 9000
for kind, text in ("grammar", "start: " + "(" * 60000), ("regex", "(" * 60000), ("json_schema", deep):
    try:
        grammars.follow(Structure(kind, text), ())
    except InvalidRequest:
        continue
    raise SystemExit(f"{{kind}} was accepted")
print("survived")
"""


def test_a_deep_grammar_does_not_end_the_process(small_vocab: Any) -> None:
    """Rules that each name the next one recurse in llguidance: with an ordinary stack that is a crash."""
    code = CHAINS.format(folder=str(small_vocab))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "survived\n", "")


def test_two_structures_contradict_each_other() -> None:
    with pytest.raises(InvalidRequest, match="json_schema and regex contradict each other"):
        SamplingParams(json_schema="{}", regex="a")
    with pytest.raises(InvalidRequest, match="choice and token_healing contradict each other"):
        SamplingParams(choice=("a",), token_healing=True)


def test_a_schema_may_be_given_as_text_as_an_object_or_as_a_class() -> None:
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}

    class Model:
        @classmethod
        def model_json_schema(cls) -> dict[str, Any]:
            return schema

    given: list[Any] = [schema, json.dumps(schema), Model]
    kept = {SamplingParams(json_schema=one).json_schema for one in given}
    assert kept == {'{"type": "object", "properties": {"b": {}, "a": {}}}'}
    assert isinstance(hash(SamplingParams(json_schema=given[0])), int)
    wrong: list[Any] = [
        "",
        "[]",
        "{",
        5,
        [schema],
        {"a": {1, 2}},
        '{"a":' * 100_000,
        {"minimum": float("nan")},
    ]
    for one in wrong:
        with pytest.raises(InvalidRequest, match="json_schema"):
            SamplingParams(json_schema=one)


def test_what_other_texts_have_used_up_ends_no_text(grammars: Grammars, small: Tokenizer) -> None:
    """One mask of this grammar fills what its lexer may hold, and all its matchers share that."""
    structure = Structure("regex", "(?:(?:(?:a){100}){100}){100}")
    assert letters(small, grammars.follow(structure, ()).mask()) == {b"a"}


def test_a_full_lexer_changes_no_mask(
    grammars: Grammars, small: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text after text explores more states than a lexer may hold; each goes on as with room for all."""
    structure = Structure("regex", "([ab]{0,40}c[ab]{0,40}|[bc]{0,40}a[bc]{0,40}){0,30}")
    monkeypatch.setattr(grammar, "MAX_STATES", 500)
    compiled: list[Structure] = []
    original = grammar._compile
    monkeypatch.setattr(
        grammar, "_compile", lambda s, tables, trial: compiled.append(s) or original(s, tables, trial=trial)
    )
    narrow = Grammars(small, small.vocab_size + 5)
    rng = np.random.default_rng(0)
    for _ in range(10):
        wide, follower = grammars.follow(structure, ()), narrow.follow(structure, ())
        for _ in range(40):
            mask = wide.mask()
            assert np.array_equal(mask, follower.mask())
            token = int(rng.choice(allowed(mask)))
            wide.push(token)
            follower.push(token)
    assert compiled.count(structure) > 2, "the lexer was never full"


# --- what it holds ---


def test_nothing_is_kept_when_the_model_is_gone(small_vocab: Any) -> None:
    tokenizer = Tokenizer.load(small_vocab)
    grammars = Grammars(tokenizer, 269)
    follower = grammars.follow(Structure("choice", '["the", "in"]'), ())
    follower.mask()
    gone = weakref.ref(tokenizer)
    del tokenizer, grammars, follower
    gc.collect()
    assert gone() is None


def test_the_bundled_model_in_short() -> None:
    """The full run, over a thousand texts, is benchmarks/grammar/obey.py."""
    lm = gpt2.load(threads=1)
    own = Grammars(lm.tokenizer, lm.config.vocab_size)
    eos = lm.tokenizer.eos_id
    assert eos is not None
    options, judge = CASES["json_schema", "character"]
    params = SamplingParams(max_new_tokens=100, seed=3, **options)
    structure = structure_of(params)
    assert structure is not None
    tree = FakeTree(params, frozenset({eos}), lm.config.vocab_size, lm.logits)
    make = masked(lambda: own.follow(structure, {eos}))
    (written,) = run(tree, lm.tokenizer.encode("Once"), make)
    judge(lm.tokenizer.decode(written.tokens, skip_special=True))
