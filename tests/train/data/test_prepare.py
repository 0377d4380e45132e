"""Text goes in, and every token of it comes out once: in any number of threads, killed or not."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import runpy
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from gpt2.errors import DataError, InvalidRequest
from gpt2.tokenizer import Tokenizer
from gpt2.train.data import Batches, Preparation, Progress, Split, Tokens, prepare, readers

WORDS = [
    "the",
    "and",
    "in",
    "on",
    "red",
    "round",
    "tower",
    "bridge",
    "sings",
    "falls",
    "he",
    "she",
    "it",
    "was",
    "were",
    "never",
    "again",
]
NONE = Preparation(validation=0.0)
KILLED = Path(__file__).with_name("killed.py")
contents = runpy.run_path(str(KILLED))["contents"]


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Syncing is for power cuts, and slow where others write; that it is done, and when, is tested by
    itself."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="module")
def tokenizer(small_vocab: Path) -> Tokenizer:
    return Tokenizer.load(small_vocab)


def sentence(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words)).capitalize() + "."


def story(rng: random.Random, paragraphs: int) -> str:
    return "\n\n".join(sentence(rng, rng.randint(5, 40)) for _ in range(paragraphs))


def stories(count: int, seed: int = 1) -> list[str]:
    rng = random.Random(seed)
    return [story(rng, rng.randint(1, 6)) for _ in range(count)]


def lines(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def as_lines(path: Path, texts: list[str]) -> Path:
    return lines(path, [{"text": text} for text in texts])


def texts_of(split: Split, tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.decode(split.document(i)) for i in range(len(split))]


@pytest.fixture
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many pieces, blocks, parts and runs out of little text."""
    monkeypatch.setattr(readers, "PIECE", 300)
    monkeypatch.setattr(sys.modules["gpt2.train.data.tokenising"], "BLOCK", 700)
    monkeypatch.setattr(sys.modules["gpt2.train.data.prepare"], "PART", 2000)
    monkeypatch.setattr(sys.modules["gpt2.train.data.finishing"], "AT_ONCE", 1500)


def test_every_text_is_in_one_split_in_order(tmp_path: Path, tokenizer: Tokenizer) -> None:
    texts = stories(200)
    tokens = prepare(
        as_lines(tmp_path / "a.jsonl", texts), tokenizer, tmp_path / "out", Preparation(validation=0.2)
    )
    train, held = (texts_of(tokens.split(name), tokenizer) for name in ("train", "validation"))
    assert sorted(train + held) == sorted(texts)
    assert [text for text in texts if text in set(train)] == train
    assert 20 <= len(held) <= 60, "200 draws of 0.2: four deviations"
    tokens.verify()
    tokens.check_tokenizer(tokenizer.hash)
    counts = tokens.index["splits"]
    assert (
        counts["train"]["tokens"]
        == tokens.split("train").tokens
        == sum(len(tokenizer.encode(t)) + 1 for t in train)
    )
    assert counts["validation"]["bytes"] == sum(len(text.encode()) for text in held)
    assert not (tmp_path / "out" / ".work").exists()


def test_held_back_documents_depend_on_their_text_and_the_seed_alone(
    tmp_path: Path, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    texts = stories(100)
    other = Tokenizer.train(as_lines(tmp_path / "corpus.txt", texts), 400)

    def held(name: str, some: list[str], vocabulary: Tokenizer, seed: int = 0) -> set[str]:
        source = as_lines(tmp_path / f"{name}.jsonl", some)
        tokens = prepare(source, vocabulary, tmp_path / name, Preparation(validation=0.2, seed=seed))
        return set(texts_of(tokens.split("validation"), vocabulary))

    first = held("first", texts, tokenizer)
    assert held("backwards", texts[::-1], tokenizer) == first
    assert held("other", texts, other) == first
    assert held("some", texts[:50], tokenizer) == first & set(texts[:50])
    assert held("seed", texts, tokenizer, seed=1) != first


@pytest.mark.usefixtures("small_sizes")
def test_threads_and_sizes_change_no_byte(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rng = random.Random(5)
    texts = [story(rng, rng.choice([1, 2, 30])) for _ in range(60)] + ["", " \n", "the end"]
    texts += texts[3:9]
    source = as_lines(tmp_path / "a.jsonl", texts)
    settings = Preparation(near_duplicates=0.8, shard_tokens=900, validation=0.1)
    for threads in (1, 4):
        prepare(source, tokenizer, tmp_path / str(threads), settings, threads=threads)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["gpt2.train.data.prepare"], "PART", 1 << 26)
        patch.setattr(sys.modules["gpt2.train.data.finishing"], "AT_ONCE", 1 << 23)
        prepare(source, tokenizer, tmp_path / "large", settings)
    assert contents(tmp_path / "1") == contents(tmp_path / "4") == contents(tmp_path / "large")
    assert len(list((tmp_path / "1").glob("train-*.bin"))) > 3
    tokens = Tokens(tmp_path / "1")
    found = [t for name in ("train", "validation") for t in texts_of(tokens.split(name), tokenizer)]
    assert sorted(found) == sorted({text for text in texts if text.strip()})
    assert tokens.index["left_out"]["exact duplicate"]["documents"] == 6
    assert tokens.index["left_out"]["blank"]["documents"] == 2


@pytest.mark.usefixtures("small_sizes")
def test_a_single_text_is_held_back_from_a_paragraph_on(tmp_path: Path, tokenizer: Tokenizer) -> None:
    whole = story(random.Random(2), 200)
    (tmp_path / "notes.txt").write_text(whole)
    tokens = prepare(tmp_path / "notes.txt", tokenizer, tmp_path / "out")
    train, held = (texts_of(tokens.split(name), tokenizer) for name in ("train", "validation"))
    assert len(train) == len(held) == 1
    assert train[0] + held[0] == whole
    assert train[0].endswith("\n\n")
    assert not held[0].startswith("\n")
    assert 0.02 < len(held[0]) / len(whole) <= 0.06
    counts = tokens.index["splits"]
    for name, text in (("train", train[0]), ("validation", held[0])):
        tokens_of_text = len(tokenizer.encode(text)) + 1
        assert counts[name] == {
            "documents": 1, "tokens": tokens_of_text, "bytes": len(text.encode()), "longest": tokens_of_text,
        }  # fmt: skip
        assert list(tokenizer.encode(text)) == tokens.split(name).document(0).tolist()


def test_some_books_give_their_ends_and_short_texts_are_whole(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rng = random.Random(3)
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(story(rng, 100))
    tokens = prepare(tmp_path, tokenizer, tmp_path.with_name("books"))
    assert [tokens.index["splits"][name]["documents"] for name in ("train", "validation")] == [3, 3]
    short = as_lines(tmp_path / "short.jsonl", ["the cat", "a dog", "one bird"])
    tokens = prepare(short, tokenizer, tmp_path.with_name("short"))
    assert [tokens.index["splits"][name]["documents"] for name in ("train", "validation")] == [2, 1]


def test_prompts_are_tokenised_apart_and_have_no_loss(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rows = [
        {"prompt": "the an", "completion": "d then"},
        {"prompt": "", "completion": "on"},
        {"prompt": "x", "completion": " "},
    ]
    tokens = prepare(lines(tmp_path / "a.jsonl", rows), tokenizer, tmp_path / "out", NONE)
    split = tokens.split("train")
    assert split.document(0).tolist() == tokenizer.encode("the an") + tokenizer.encode("d then")
    assert split.loss_from is not None
    assert split.loss_from.tolist() == [1 + len(tokenizer.encode("the an")), 1]
    assert len(split) == 2, "an empty completion is nothing to learn"
    data = Batches(split, window=64, batch=1)
    assert data.epoch_tokens == len(tokenizer.encode("d then")) + 1 + len(tokenizer.encode("on")) + 1


def test_validation_sources_are_held_back_whole_and_taken_out_of_training(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    texts = stories(40)
    train, held = (
        as_lines(tmp_path / "a.jsonl", texts),
        as_lines(tmp_path / "b.jsonl", [*texts[30:], "the new"]),
    )
    tokens = prepare(train, tokenizer, tmp_path / "out", validation_sources=held)
    assert texts_of(tokens.split("validation"), tokenizer) == [*texts[30:], "the new"]
    assert texts_of(tokens.split("train"), tokenizer) == texts[:30]
    left = [json.loads(line) for line in (tmp_path / "out" / "left-out.jsonl").read_text().splitlines()]
    assert left[0] == {"where": "a.jsonl:31", "why": "exact duplicate", "of": "b.jsonl:1"}


def test_duplicates_are_named_with_what_they_repeat(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rng = random.Random(8)
    base = [f"w{i} " * 1 + " ".join(f"v{rng.randrange(10**6)}" for _ in range(80)) for i in range(5)]
    near = base[1].replace(base[1].split()[40], "changed")
    texts = [*base, base[0], near, base[2] + " more words of its own " + base[3]]
    source = as_lines(tmp_path / "a.jsonl", texts)
    settings = Preparation(validation=0.0, near_duplicates=0.8)
    tokens = prepare(source, tokenizer, tmp_path / "out", settings)
    left = [json.loads(line) for line in (tmp_path / "out" / "left-out.jsonl").read_text().splitlines()]
    assert left == [
        {"where": "a.jsonl:6", "why": "exact duplicate", "of": "a.jsonl:1"},
        {"where": "a.jsonl:7", "why": "near duplicate", "of": "a.jsonl:2"},
    ]
    assert len(tokens.split("train")) == 6
    everything = Preparation(validation=0.0, exact_duplicates=False)
    assert len(prepare(source, tokenizer, tmp_path / "all", everything).split("train")) == len(texts)


def test_texts_of_an_evaluation_are_left_out(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rng = random.Random(9)
    clean = [" ".join(f"v{rng.randrange(10**6)}" for _ in range(60)) for _ in range(6)]
    question = "Which of the seven bridges of the old town was the first that had a roof?"
    rows = [{"question": question, "choices": ["north", "south"]}, {"question": "Why?", "choices": []}]
    evaluation = tmp_path / "eval.jsonl"
    evaluation.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dirty = f"{clean[0]}\n{question.upper()}\n"
    nearly = f"{clean[1]} which of the seven bridges of the old town was the"
    source = as_lines(tmp_path / "a.jsonl", [*clean, dirty, nearly])
    settings = Preparation(validation=0.0, decontaminate=(str(evaluation),))
    tokens = prepare(source, tokenizer, tmp_path / "out", settings)
    assert texts_of(tokens.split("train"), tokenizer) == [*clean, nearly]
    assert tokens.index["left_out"]["contaminated"]["documents"] == 1
    assert tokens.index["evaluation"]["too_short"] == 1
    card = (tmp_path / "out" / "data.md").read_text()
    assert "| contaminated | 1 |" in card
    assert "eval.jsonl" in card


def test_the_card_says_what_is_there(tmp_path: Path, tokenizer: Tokenizer) -> None:
    as_lines(tmp_path / "a.jsonl", stories(60))
    (tmp_path / "picture.png").write_bytes(b"x")
    tokens = prepare(tmp_path, tokenizer, tmp_path.with_name("card"))
    card = (tmp_path.with_name("card") / "data.md").read_text()
    source = tokens.index["sources"][0]
    assert f"| a.jsonl | {source['bytes']:,} | 60 | {source['sha256']} |" in card
    assert f"| train | {len(tokens.split('train')):,} | {tokens.split('train').tokens:,} |" in card
    assert "1 files of other kinds" in card
    assert tokens.index["left_out_files"] == ["picture.png"]


def test_the_same_call_again_finds_its_work_done_and_another_is_refused(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    source = as_lines(tmp_path / "a.jsonl", stories(40))
    first = prepare(source, tokenizer, tmp_path / "out")
    assert prepare(source, tokenizer, tmp_path / "out").hash == first.hash
    with pytest.raises(InvalidRequest, match=r"made in another way: got other settings"):
        prepare(source, tokenizer, tmp_path / "out", Preparation(seed=1))
    raw = bytearray(source.read_bytes())
    raw[20] ^= 1
    source.write_bytes(raw)
    with pytest.raises(InvalidRequest, match="content of the sources"):
        prepare(source, tokenizer, tmp_path / "out")
    with pytest.raises(InvalidRequest, match="other sources"):
        prepare(as_lines(tmp_path / "b.jsonl", stories(5)), tokenizer, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.doc").write_text("years of work")
    with pytest.raises(InvalidRequest, match="is something else"):
        prepare(source, tokenizer, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.doc").read_text() == "years of work"


def test_an_output_among_the_sources_is_no_source(tmp_path: Path, tokenizer: Tokenizer) -> None:
    as_lines(tmp_path / "a.jsonl", stories(40))
    first = prepare(tmp_path, tokenizer, tmp_path / "out")
    assert prepare(tmp_path, tokenizer, tmp_path / "out").hash == first.hash
    index = {name: first.index[name] for name in ("format", "version", "tokenizer", "shards")}
    (tmp_path / "out" / "index.json").write_text(json.dumps(index))
    assert len(Tokens(tmp_path / "out").split("train")) == len(first.split("train"))
    with pytest.raises(InvalidRequest, match="another program"):
        prepare(tmp_path, tokenizer, tmp_path / "out")


def interrupted(after: int) -> Callable[[Progress], None]:
    def stop(progress: Progress) -> None:
        nonlocal after
        after -= 1
        if not after:
            raise KeyboardInterrupt

    return stop


@pytest.mark.usefixtures("small_sizes")
def test_interrupted_work_is_gone_on_with_unless_the_request_is_another(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    source, out = as_lines(tmp_path / "a.jsonl", stories(80)), tmp_path / "out"
    prepare(source, tokenizer, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        prepare(source, tokenizer, out, progress=interrupted(30))
    parts = {path.name: path.stat().st_mtime_ns for path in (out / ".work").glob("*.npz")}
    assert len(parts) >= 5
    seen: list[Progress] = []
    with pytest.raises(KeyboardInterrupt):
        prepare(source, tokenizer, out, progress=interrupted(5))
    assert parts.items() <= {p.name: p.stat().st_mtime_ns for p in (out / ".work").glob("*.npz")}.items()
    torn = sorted((out / ".work").glob("*.bin"))[2]
    torn.write_bytes(torn.read_bytes()[:-2] + b"zz")  # as after a power cut
    prepare(source, tokenizer, out, progress=seen.append)
    assert contents(out) == contents(tmp_path / "whole")
    assert not any(progress.note for progress in seen)

    prepare(source, tokenizer, tmp_path / "seeded", Preparation(seed=4))
    again = tmp_path / "again"
    with pytest.raises(KeyboardInterrupt):
        prepare(source, tokenizer, again, progress=interrupted(30))
    prepare(source, tokenizer, again, Preparation(seed=4), progress=seen.append)
    assert "begun anew" in str([progress.note for progress in seen])
    assert contents(again) == contents(tmp_path / "seeded")


def test_killed_at_any_moment_it_ends_with_the_same_bytes(tmp_path: Path, small_vocab: Path) -> None:
    """The long form: python tests/train/data/killed.py SCRATCH VOCABULARY --kills 500"""
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "a.txt").write_text("<s>".join(stories(40)) + "<s>" + story(random.Random(1), 60))
    as_lines(tmp_path / "sources" / "b.jsonl", stories(50, seed=2))
    done = subprocess.run(
        [sys.executable, str(KILLED), str(tmp_path), str(small_vocab), "--kills", "25"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["wrong"] == 0
    assert result["kills"] >= 25


@pytest.mark.parametrize("nth", [1, 3, 5])
def test_a_full_disk_is_said_and_nothing_is_lost(
    nth: int, tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = as_lines(tmp_path / "a.jsonl", stories(40))
    prepare(source, tokenizer, tmp_path / "whole")
    calls = 0

    def full(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match=r"(?s)No space left.*goes on where it stopped"):
            prepare(source, tokenizer, tmp_path / "out")
    with pytest.raises(DataError, match="no prepared tokens here"):
        Tokens(tmp_path / "out")
    prepare(source, tokenizer, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_the_index_is_written_when_all_else_is_on_the_disk(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut leaves no index, or one whose files are whole."""
    done: list[str] = []

    def sync(handle: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)

    rename = os.replace

    def replace(source: Path, target: Path) -> None:
        done.append(f"-> {Path(target).name}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    prepare(as_lines(tmp_path / "a.jsonl", stories(40)), tokenizer, tmp_path / "out")
    files = {path.name for path in (tmp_path / "out").glob("*-00000.*")}
    renamed = done.index("-> index.json")
    assert files <= set(done[:renamed])
    assert done[renamed - 1] == ".index.json.new"
    assert done[renamed + 1 :] == ["out"]


def test_two_at_once_in_one_folder(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source = as_lines(tmp_path / "a.jsonl", stories(10))
    (tmp_path / "out" / ".work").mkdir(parents=True)
    with (tmp_path / "out" / ".work" / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InvalidRequest, match="another process"):
            prepare(source, tokenizer, tmp_path / "out")
    prepare(source, tokenizer, tmp_path / "out")


def test_too_little_text(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "a.txt").write_text("Hello.")
    with pytest.raises(DataError, match=r"(?s)too little text.*--validation 0"):
        prepare(tmp_path / "a.txt", tokenizer, tmp_path / "out")
    assert len(prepare(tmp_path / "a.txt", tokenizer, tmp_path / "all", NONE).split("train")) == 1
    (tmp_path / "c.txt").write_text(story(random.Random(1), 3))
    small = prepare(tmp_path / "c.txt", tokenizer, tmp_path / "small")
    assert 16 <= small.split("validation").tokens <= 33
    (tmp_path / "b.txt").write_text(" \n \n")
    with pytest.raises(DataError, match=r"no document stays.*1 blank"):
        prepare(tmp_path / "b.txt", tokenizer, tmp_path / "blank")


@pytest.mark.parametrize(
    "wrong",
    [
        {"validation": 1.0},
        {"validation": -0.1},
        {"near_duplicates": 0.0},
        {"near_duplicates": 1.1},
        {"separator": ""},
        {"seed": -1},
        {"ngram": 0},
        {"shard_tokens": 0},
        {"prompt_column": "a"},
    ],
)
def test_impossible_settings(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        Preparation(**wrong)  # type: ignore[arg-type]


def test_a_vocabulary_without_an_end_of_text(tmp_path: Path, small_vocab: Path) -> None:
    (tmp_path / "a.txt").write_text("the and in")
    bare = Tokenizer.train(tmp_path / "a.txt", 260, special_tokens=[])
    with pytest.raises(InvalidRequest, match=r"no <\|endoftext\|>"):
        prepare(tmp_path / "a.txt", bare, tmp_path / "out")
    with pytest.raises(InvalidRequest, match="threads"):
        prepare(tmp_path / "a.txt", Tokenizer.load(small_vocab), tmp_path / "out", threads=0)


def test_no_pytorch_is_needed() -> None:
    code = "import sys, gpt2.train.data, gpt2.cli.prepare; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.usefixtures("small_sizes")
def test_every_prediction_once_an_epoch_through_the_whole_road(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """From files to batches: the pairs (token, next token) of all texts, none twice, none missing."""
    texts = stories(30, seed=4)
    tokens = prepare(as_lines(tmp_path / "a.jsonl", texts), tokenizer, tmp_path / "out", NONE)
    end = tokenizer.eos_id
    whole = [[end, *tokenizer.encode(text), end] for text in texts]
    expected = sorted(pair for ids in whole for pair in pairwise(ids))
    data = Batches(tokens.split("train"), window=32, batch=4, seed=2)
    seen: list[tuple[int, int]] = []
    for batch in data.once():
        at = batch.targets != -100
        seen += zip(batch.tokens[at].tolist(), batch.targets[at].tolist(), strict=True)
    assert sorted(seen) == expected
    assert np.isclose(data.fill, len(expected) / (data.windows * 32))
