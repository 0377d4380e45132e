"""Every token once an epoch; a batch depends on (seed, step, micro, rank) alone; packing changes no loss."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2.errors import DataError, InvalidRequest
from gpt2.train.data import Batch, Batches, Split
from gpt2.train.data.packing import NO_LOSS, PADDING, best_fit, shuffled

V, EOS = 50, 49
PACKINGS = ("documents", "stream")
texts = st.lists(st.lists(st.integers(0, V - 2), max_size=20), min_size=1, max_size=12)


def split_of(documents: list[list[int]], loss_from: list[int] | None = None) -> Split:
    return Split.of(documents, vocab_size=V, eos_id=EOS, loss_from=loss_from)


def numbered(count: int, length: int) -> Split:
    """Documents whose tokens tell them apart."""
    return Split.of(
        [list(range(i * length, (i + 1) * length)) for i in range(count)],
        vocab_size=count * length + 1,
        eos_id=count * length,
    )


def pairs(batches: list[Batch]) -> Counter[tuple[int, int]]:
    """(token, the token that is to follow) of every position with a loss."""
    found: Counter[tuple[int, int]] = Counter()
    for batch in batches:
        at = batch.targets != NO_LOSS
        found.update(zip(batch.tokens[at].tolist(), batch.targets[at].tolist(), strict=True))
    return found


def expected_pairs(
    documents: list[list[int]], loss_from: list[int] | None = None
) -> Counter[tuple[int, int]]:
    found: Counter[tuple[int, int]] = Counter()
    for i, ids in enumerate(documents):
        whole = [EOS, *ids, EOS]
        prompt = loss_from[i] if loss_from else 0
        found.update(pair for at, pair in enumerate(pairwise(whole)) if at >= prompt)
    return found


@pytest.mark.parametrize("packing", PACKINGS)
@given(documents=texts, window=st.integers(1, 9), batch=st.integers(1, 4))
def test_every_token_is_predicted_once_an_epoch(
    packing: str, documents: list[list[int]], window: int, batch: int
) -> None:
    split = split_of(documents)
    if packing == "stream" and split.tokens < window:
        return
    data = Batches(split, window=window, batch=batch, packing=packing)
    assert pairs(list(data.once())) == expected_pairs(documents)
    assert data.epoch_tokens == split.tokens == sum(len(ids) + 1 for ids in documents)


@given(documents=texts, window=st.integers(1, 9), data=st.data())
def test_prompts_have_no_loss_and_all_else_has(
    documents: list[list[int]], window: int, data: st.DataObject
) -> None:
    loss_from = [data.draw(st.integers(0, len(ids))) for ids in documents]
    split = split_of(documents, loss_from)
    for packing in PACKINGS:
        if packing == "stream" and split.tokens < window:
            continue
        batches = Batches(split, window=window, batch=2, packing=packing)
        seen = list(batches.once())
        assert pairs(seen) == expected_pairs(documents, loss_from)
        assert batches.epoch_tokens == sum(batch.loss_tokens for batch in seen)


@pytest.mark.parametrize("packing", PACKINGS)
@given(count=st.integers(2, 9), batch=st.integers(1, 3), epochs=st.integers(1, 3), seed=st.integers(0, 9))
def test_training_takes_every_window_once_an_epoch(
    packing: str, count: int, batch: int, epochs: int, seed: int
) -> None:
    split = numbered(count, 5)
    data = Batches(split, window=4, batch=1, packing=packing, seed=seed)
    steps = data.windows * epochs
    assert data.steps(epochs) == steps
    seen = pairs([data.batch(step) for step in range(steps)])
    assert seen == Counter(dict.fromkeys(pairs(list(data.once())), epochs))
    assert data.epoch(steps) == epochs
    # The same sequence in batches of another size: the rows do not depend on how they are put together.
    rows = [data.batch(step).tokens[0].tolist() for step in range(batch * 5)]
    wide = Batches(split, window=4, batch=batch, packing=packing, seed=seed)
    assert [row for step in range(5) for row in wide.batch(step).tokens.tolist()] == rows


def stacked(batches: list[Batch]) -> list[list[list[int]]]:
    return [np.concatenate([getattr(b, name) for b in batches]).tolist() for name in ("tokens", "targets")]


@pytest.mark.parametrize("packing", PACKINGS)
def test_micro_batches_and_ranks_together_are_one_batch(packing: str) -> None:
    split = numbered(40, 6)
    arguments = {"window": 8, "packing": packing, "seed": 3}
    whole = Batches(split, batch=12, **arguments)
    micro = Batches(split, batch=3, accumulation=4, **arguments)
    ranks = [Batches(split, batch=2, accumulation=2, rank=r, ranks=3, **arguments) for r in range(3)]
    for step in range(12):
        one = stacked([whole.batch(step)])
        assert stacked([micro.batch(step, m) for m in range(4)]) == one
        assert stacked([data.batch(step, m) for m in range(2) for data in ranks]) == one
        total = whole.batch(step).loss_tokens
        assert {data.loss_tokens(step) for data in (whole, micro, *ranks)} == {total}


def test_a_batch_does_not_depend_on_what_was_asked_before() -> None:
    arguments = {"window": 8, "batch": 2, "seed": 5}
    split = numbered(30, 7)
    data = Batches(split, **arguments)
    forward = [data.batch(step).tokens.tolist() for step in range(60)]
    for step in (59, 0, 31, 7):
        assert Batches(split, **arguments).batch(step).tokens.tolist() == forward[step]
    assert Batches(split, window=8, batch=2, seed=6).batch(0).tokens.tolist() != forward[0]


def test_epochs_have_different_orders() -> None:
    data = Batches(numbered(64, 7), window=8, batch=64, packing="stream")
    assert data.batch(0).tokens.tolist() != data.batch(1).tokens.tolist()
    assert sorted(data.batch(0).tokens.tolist()) == sorted(data.batch(1).tokens.tolist())


def test_the_order_of_windows_never_changes() -> None:
    """A run that goes on with another version of numpy must see the same data: numbers worked out by hand
    from the definition of SplitMix64 in Python's integers."""

    def mixed(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    for count, seed, epoch in [(1, 0, 0), (10, 0, 0), (100, 7, 3)]:
        base = mixed((mixed(seed) + epoch) % 2**64)
        keys = [mixed((base + i * 0x9E3779B97F4A7C15) % 2**64) for i in range(count)]
        assert shuffled(count, seed, epoch).tolist() == sorted(range(count), key=keys.__getitem__)


@given(lengths=st.lists(st.integers(1, 12), max_size=60), window=st.integers(12, 20))
def test_best_fit_loses_nothing_and_overfills_nothing(lengths: list[int], window: int) -> None:
    of = best_fit(np.array(lengths, np.int64), window)
    filled = np.bincount(of, weights=lengths) if lengths else np.zeros(0)
    assert (filled <= window).all()
    assert (filled > 0).all()
    assert len(filled) == plain_best_fit(lengths, window)


def plain_best_fit(lengths: list[int], window: int) -> int:
    """One piece after the other, as the books have it; the number of windows."""
    room: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [i for i, left in enumerate(room) if left >= length]
        if fitting:
            room[min(fitting, key=lambda i: room[i])] -= length
        else:
            room.append(window - length)
    return len(room)


@given(documents=texts, window=st.integers(1, 24))
def test_a_document_that_fits_is_whole_and_alone(documents: list[list[int]], window: int) -> None:
    data = Batches(split_of(documents), window=window, batch=3)
    found: list[list[int]] = []
    for batch in data.once():
        assert batch.documents is not None
        assert batch.positions is not None
        for row in range(3):
            numbers = batch.documents[row]
            padding = numbers == PADDING
            assert (batch.targets[row][padding] == NO_LOSS).all()
            assert (batch.tokens[row][padding] == EOS).all()
            for number in set(numbers[~padding].tolist()):
                here = numbers == number
                assert batch.positions[row][here].tolist() == list(range(here.sum()))
                found.append(batch.tokens[row][here].tolist())
    whole = [[EOS, *ids] for ids in documents]
    pieces = [ids[at : at + window] for ids in whole for at in range(0, len(ids), window)]
    assert sorted(found) == sorted(pieces)


def test_packed_documents_have_the_loss_of_each_alone() -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'gpt2[train]'")
    from gpt2.config import GPT2Config
    from gpt2.model import GPT2

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=V, n_positions=32, n_embd=24, n_layer=2, n_head=3, initializer_range=0.3)
    model = GPT2(config).double().eval()
    rng = np.random.default_rng(1)
    documents = [rng.integers(0, V - 1, n).tolist() for n in (3, 9, 1, 14, 31, 5, 0, 22)]

    @torch.no_grad()
    def loss(batch: Batch) -> float:
        tokens, targets, numbers, positions = (
            None if a is None else torch.from_numpy(a)
            for a in (batch.tokens, batch.targets, batch.documents, batch.positions)
        )
        logits = model(tokens, positions=positions, documents=numbers)
        return float(torch.nn.functional.cross_entropy(logits.view(-1, V), targets.view(-1), reduction="sum"))

    alone = sum(
        loss(Batch(np.array([[EOS, *ids]]), np.array([[*ids, EOS]]), None, None)) for ids in documents
    )
    packed = list(Batches(split_of(documents), window=32, batch=2).once())
    assert sum(batch.tokens.shape[0] for batch in packed) < len(documents), "nothing was packed"
    # Sums of the same 92 terms in float64, in another order.
    assert sum(map(loss, packed)) == pytest.approx(alone, rel=1e-11)


def test_measuring_gives_every_rank_the_same_number_of_batches() -> None:
    split = numbered(21, 7)
    alone = Batches(split, window=8, batch=4)
    ranks = [list(Batches(split, window=8, batch=2, rank=r, ranks=3).once()) for r in range(3)]
    assert len({len(batches) for batches in ranks}) == 1
    assert pairs([b for batches in ranks for b in batches]) == pairs(list(alone.once()))
    some = list(alone.once(limit=6))
    assert sum(bool((row != NO_LOSS).any()) for b in some for row in b.targets) == 6
    assert not pairs(some) - pairs(list(alone.once()))
    assert pairs(list(alone.once(limit=1000))) == pairs(list(alone.once()))


def test_a_completion_longer_than_a_window_and_a_prompt_longer_than_one() -> None:
    split = split_of([list(range(10)), list(range(20, 32))], loss_from=[2, 9])
    data = Batches(split, window=4, batch=8)
    assert pairs(list(data.once())) == expected_pairs([list(range(10)), list(range(20, 32))], [2, 9])
    for step in range(20):
        assert Batches(split, window=4, batch=1).loss_tokens(step) > 0, "a window of nothing but prompt"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"window": 0}, "window"),
        ({"batch": 0}, "batch"),
        ({"accumulation": 0}, "accumulation"),
        ({"ranks": 0}, "ranks"),
        ({"rank": 2, "ranks": 2}, "rank"),
        ({"rank": -1}, "rank"),
        ({"seed": -1}, "seed"),
        ({"packing": "tight"}, "packing"),
    ],
)
def test_impossible_arguments(wrong: dict[str, object], said: str) -> None:
    arguments: dict[str, object] = {"window": 8, "batch": 1} | wrong
    with pytest.raises(InvalidRequest, match=said):
        Batches(numbered(4, 7), **arguments)  # type: ignore[arg-type]


def test_a_micro_batch_that_is_none() -> None:
    data = Batches(numbered(4, 7), window=8, batch=1, accumulation=2)
    for step, micro in [(-1, 0), (0, 2), (0, -1)]:
        with pytest.raises(InvalidRequest, match="micro-batch"):
            data.batch(step, micro)


def test_too_little_text() -> None:
    with pytest.raises(DataError, match="empty"):
        Batches(split_of([]), window=8, batch=1)
    with pytest.raises(DataError, match="smaller than one window") as error:
        Batches(numbered(1, 5), window=8, batch=1, packing="stream")
    assert "6 tokens" in str(error.value)
    assert Batches(numbered(1, 5), window=8, batch=1).fill == 6 / 8
    assert Batches(split_of([[1, 2]], [2]), window=8, batch=1).epoch_tokens == 1, (
        "the end of the text is predicted"
    )
