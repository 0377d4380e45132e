"""Reading and writing the three kinds of vocabulary files."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

import gpt2.errors as errors
from gpt2.tokenizer import Tokenizer
from tokenizer.oracle import package

FILES = ["tokenizer.json", "vocab.json", "merges.txt", "encoder.json", "vocab.bpe"]


def test_what_is_written_is_what_is_read(trained: Tokenizer, tmp_path: Path) -> None:
    paths = trained.save(tmp_path / "new" / "folder")
    assert [p.name for p in paths] == FILES
    assert sorted(p.name for p in paths[0].parent.iterdir()) == sorted(FILES), "no temporary file is left"
    for path in [paths[0].parent, *paths]:
        again = Tokenizer.load(path)
        assert again.hash == trained.hash, path
        assert again.special_tokens == trained.special_tokens == {"<|endoftext|>": 2999}
        assert again.encode("Hello, wörld 中") == trained.encode("Hello, wörld 中")
    assert Tokenizer.from_files(paths[3], paths[2]).hash == trained.hash
    assert all(path.stat().st_mode & stat.S_IRUSR for path in paths)


@pytest.mark.parametrize("formats", [["vocab.json"], ["encoder.json"], ["tokenizer.json"]])
def test_each_format_alone_is_enough(trained: Tokenizer, tmp_path: Path, formats: list[str]) -> None:
    trained.save(tmp_path, formats)
    assert Tokenizer.load(tmp_path).hash == trained.hash


def test_the_real_files_come_back_byte_for_byte(real_vocab: Path, tmp_path: Path) -> None:
    Tokenizer.load(real_vocab).save(tmp_path, ["encoder.json"])
    for name in ("encoder.json", "vocab.bpe"):
        assert (tmp_path / name).read_bytes() == (real_vocab / name).read_bytes(), name


def test_the_real_vocabulary(real_vocab: Path) -> None:
    tokenizer = Tokenizer.load(real_vocab)
    assert (len(tokenizer), tokenizer.eos_id) == (50257, 50256)
    assert tokenizer.special_tokens == {"<|endoftext|>": 50256}
    assert tokenizer.token_bytes(262) == b" the"
    assert (
        tokenizer.token_to_id(" the"),
        tokenizer.token_to_id(b"\xff"),
        tokenizer.token_to_id("no such"),
    ) == (262, 187, None)


def test_ids_containing_a_piece(trained: Tokenizer) -> None:
    pieces = [b"\n", b" the", b"e", b"", b"\xff\xfe never there"]
    for piece in [*pieces, *(b"%d" % k for k in range(300)), *pieces]:
        truth = tuple(id for id in range(trained.vocab_size) if piece in trained.token_bytes(id))
        assert trained.ids_containing(piece) == truth


def test_the_hash_is_of_the_vocabulary_alone(trained: Tokenizer, corpus: Path) -> None:
    assert len(trained.hash) == 64
    assert Tokenizer.train([corpus], 2999).hash != trained.hash
    assert Tokenizer.train([corpus], 3000, special_tokens=["<|end|>"]).hash != trained.hash


def edit(path: Path, **changes: object) -> None:
    """Set members of a JSON object; "a.b" is the member b of a."""
    data = json.loads(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        *outer, last = key.split("__")
        inner = data
        for name in outer:
            inner = inner[name]
        inner[last] = value
    path.write_text(json.dumps(data), encoding="utf-8")


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
HARMLESS = {
    "truncation": {"truncation": {"max_length": 4}, "padding": {"pad_id": 0}},
    "a sequence of one": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTE_LEVEL]}},
    "an empty normalizer": {"normalizer": {"type": "Sequence", "normalizers": []}},
    "a template that adds nothing": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {},
        }
    },
    "no post-processor": {"post_processor": None},
    "unknown token": {"model__unk_token": "<|endoftext|>", "model__fuse_unk": True},
    "empty prefix": {"model__continuing_subword_prefix": "", "model__end_of_word_suffix": ""},
    "a new part": {"comment": [1, {"a": None}, -1.5e3, True]},
}


@pytest.mark.parametrize("changes", HARMLESS.values(), ids=HARMLESS.keys())
def test_parts_of_tokenizer_json_that_change_nothing(
    trained: Tokenizer, tmp_path: Path, changes: dict[str, object]
) -> None:
    trained.save(tmp_path, ["tokenizer.json"])
    edit(tmp_path / "tokenizer.json", **changes)
    assert Tokenizer.load(tmp_path).hash == trained.hash


def test_merges_as_strings_as_older_files_have_them(trained: Tokenizer, tmp_path: Path) -> None:
    trained.save(tmp_path, ["tokenizer.json"])
    pairs = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["merges"]
    edit(tmp_path / "tokenizer.json", model__merges=[" ".join(pair) for pair in pairs])
    assert Tokenizer.load(tmp_path).hash == trained.hash


def test_what_transformers_saves(small_vocab: Path, tmp_path: Path) -> None:
    transformers = package("transformers")
    vocab = json.loads((small_vocab / "vocab.json").read_text(encoding="utf-8"))
    lines = (small_vocab / "merges.txt").read_text(encoding="utf-8").split("\n")[1:]
    merges = [tuple(line.split(" ")) for line in lines if line]
    try:
        tokenizer = transformers.GPT2Tokenizer(vocab=vocab, merges=merges)
    except TypeError:  # before transformers 5 it took the files
        tokenizer = transformers.GPT2TokenizerFast(
            str(small_vocab / "vocab.json"), str(small_vocab / "merges.txt")
        )
    tokenizer.save_pretrained(tmp_path)
    assert Tokenizer.load(tmp_path).hash == Tokenizer.load(small_vocab).hash


def special(content: str, id: int, **flags: bool) -> dict[str, object]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": id, "content": content} | plain | flags


SEQUENCE = {"Sequence": {"id": "A", "type_id": 0}}
END = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
REFUSED = {
    "normalizer": ({"normalizer": {"type": "NFC"}}, "normalizer: got NFC"),
    "pre-tokenizer": ({"pre_tokenizer": {"type": "Whitespace"}}, "pre_tokenizer: got Whitespace"),
    "two pre-tokenizers": (
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits"}, BYTE_LEVEL]}},
        "pre_tokenizer: got Sequence",
    ),
    "no pre-tokenizer": ({"pre_tokenizer": None}, "pre_tokenizer: got null"),
    "a blank in front": ({"pre_tokenizer__add_prefix_space": True}, "add_prefix_space: got true"),
    "another expression": ({"pre_tokenizer__use_regex": False}, "use_regex: got false"),
    "post-processor": (
        {"post_processor": {"type": "TemplateProcessing", "single": [SEQUENCE, END]}},
        "post_processor: got TemplateProcessing",
    ),
    "decoder": ({"decoder": {"type": "WordPiece"}}, "decoder: got WordPiece"),
    "model": ({"model__type": "WordPiece"}, 'model.type: got "WordPiece"'),
    "unigram": ({"model": {"type": "Unigram", "vocab": [["a", -1.0]]}}, 'model.type: got "Unigram"'),
    "dropout": ({"model__dropout": 0.1}, "model.dropout: got 0.1"),
    "prefix": ({"model__continuing_subword_prefix": "##"}, "continuing_subword_prefix"),
    "suffix": ({"model__end_of_word_suffix": "</w>"}, "end_of_word_suffix"),
    "whole words": ({"model__ignore_merges": True}, "ignore_merges: got true"),
    "ordinary added token": ({"added_tokens": [special("<x>", 3000, special=False)]}, "special: got false"),
    "token that eats blanks": ({"added_tokens": [special("<x>", 3000, lstrip=True)]}, "lstrip: got true"),
    "added id": ({"added_tokens": [special("<|endoftext|>", 5)]}, "id 5"),
    "added gap": ({"added_tokens": [special("<x>", 3007)]}, "3007"),
    "no vocab": ({"model": {"type": "BPE", "merges": []}}, "model.vocab: got none"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_parts_of_tokenizer_json_that_would_change_ids(
    trained: Tokenizer, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    trained.save(tmp_path, ["tokenizer.json"])
    edit(tmp_path / "tokenizer.json", **changes)
    with pytest.raises(errors.TokenizerError) as caught:
        Tokenizer.load(tmp_path)
    assert message in str(caught.value)
    assert "tokenizer.json" in str(caught.value)


def test_added_tokens_of_a_directory(trained: Tokenizer, tmp_path: Path) -> None:
    trained.save(tmp_path, ["vocab.json"])
    (tmp_path / "added_tokens.json").write_text('{"<pad>": 3000, "<é中>": 3001}')
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.special_tokens == {"<|endoftext|>": 2999, "<pad>": 3000, "<é中>": 3001}
    assert tokenizer.encode("<é中><pad>", allowed_special="all") == [3001, 3000]
    (tmp_path / "added_tokens.json").write_text('{"<pad>": "x"}')
    with pytest.raises(errors.TokenizerError, match=r"added_tokens\.json"):
        Tokenizer.load(tmp_path)


def test_saving_where_nothing_can_be_written(trained: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.TokenizerError, match="cannot be written"):
        trained.save(tmp_path / "file")
    with pytest.raises(errors.TokenizerError, match="format"):
        trained.save(tmp_path, ["sentencepiece"])
