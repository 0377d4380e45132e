"""Every kind of file gives its documents, whatever the size of the pieces; what is wrong is named by its
place."""

from __future__ import annotations

import bz2
import contextlib
import csv
import gzip
import io
import json
import lzma
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpt2.errors import DataError, InvalidRequest
from gpt2.tokenizer import Tokenizer
from gpt2.train.data import Document, find_sources, read, readers
from gpt2.train.data.readers import Columns, in_pieces
from gpt2.train.data.sources import Source, pieces
from machine import need

TEXTS = ["First, one.", "Zweitens: äöü €\n𝄞", 'Third "quoted", with\r\na line end\n']


def write(path: Path, content: str | bytes) -> Source:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return find_sources([path])[0][0]


def texts(source: Source, columns: Columns = readers.ANY_COLUMNS, separator: str | None = None) -> list[str]:
    return [document.text for document in read(source, columns, separator)]


def json_lines(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def as_csv(rows: list[list[str]], delimiter: str = ",") -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows(rows)
    return out.getvalue()


def zstd(data: bytes) -> bytes:
    try:
        import zstandard
    except ImportError:
        need(False, "zstandard is not installed: pip install 'gpt2[data]'")
    half = len(data) // 2
    compress = zstandard.ZstdCompressor().compress
    return compress(data[:half]) + compress(data[half:])  # two frames, as parallel compressors write them


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": zstd,
}


@pytest.mark.parametrize("suffix", COMPRESS)
def test_every_kind_compressed_or_not(suffix: str, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": text, "n": 1} for text in TEXTS]
    kinds = {
        "a.txt": "\n<|sep|>\n".join(TEXTS).removesuffix("\n"),
        "a.jsonl": json_lines(rows),
        "a.csv": as_csv([["n", "text"], *(["1", text] for text in TEXTS)]),
        "a.tsv": as_csv([["n", "text"], *(["1", text] for text in TEXTS)], "\t"),
    }
    for name, content in kinds.items():
        source = write(tmp_path / (name + suffix), COMPRESS[suffix](content.encode()))
        found = texts(source, separator="<|sep|>")
        assert found == ([*TEXTS[:2], TEXTS[2].removesuffix("\n")] if name == "a.txt" else TEXTS), name
        renamed = write(tmp_path / ("z-" + name), COMPRESS[suffix](content.encode()))
        assert texts(renamed, separator="<|sep|>") == found, "compression is seen from the content"


def test_parquet(tmp_path: Path) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        need(False, "pyarrow is not installed: pip install 'gpt2[data]'")
    path = tmp_path / "a.parquet"
    many = [f"{i} {TEXTS[i % 3]}" for i in range(2500)]
    columns = {"n": list(range(2500)), "body": many, "prompt": ["p"] * 2500}
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=700)
    source = find_sources([path])[0][0]
    assert texts(source, Columns(text="body")) == many
    first = next(iter(read(source, Columns(prompt="prompt", completion="body"))))
    assert first == Document("p" + many[0], "a.parquet:1", 1)
    with pytest.raises(DataError, match="no column 'text'") as error:
        texts(source)
    assert "'n', 'body', 'prompt'" in str(error.value)
    with pytest.raises(DataError, match=r"row 1: the column 'n' is no text"):
        texts(source, Columns(text="n"))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="not a Parquet file"):
        texts(source, Columns(text="body"))


def test_a_text_file_is_one_document_to_the_byte(tmp_path: Path) -> None:
    source = write(tmp_path / "a.txt", "\ufeff\n a\r\n\r\nb <|endoftext|> c\n\n")
    assert list(read(source)) == [Document("\n a\r\n\r\nb <|endoftext|> c\n\n", "a.txt")]


def test_prompts_and_completions(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"prompt": "Wer?", "completion": " Ich."},
        {"prompt": "", "completion": "x"},
    ]
    expected = [Document("Wer? Ich.", "a.jsonl:1", 4), Document("x", "a.jsonl:2", 0)]
    assert list(read(write(tmp_path / "a.jsonl", json_lines(rows)))) == expected
    table = as_csv([["q", "a"], ["Wer?", " Ich."]])
    found = list(read(write(tmp_path / "a.csv", table), Columns(prompt="q", completion="a")))
    assert found == [Document("Wer? Ich.", "a.csv:1", 4)]


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "PIECE", 16)
    monkeypatch.setattr(readers, "AT_ONCE", 7)


ALPHABET = [
    "a",
    "Haus",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\u00a0",
    "\u3000",
    "é",
    "1",
    "'s",
    "\r\n",
    ".",
    "<s>",
    "x<",
    "𝄞",
]
WORDS = st.lists(st.sampled_from(ALPHABET), max_size=60)


@pytest.fixture(scope="module")
def greedy_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A vocabulary that has learnt runs of white space, too, so that a wrong cut shows."""
    rng = random.Random(0)
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("".join(rng.choices(ALPHABET, k=20_000)), newline="")
    return Tokenizer.train(path, 700)


@pytest.mark.usefixtures("small_pieces")
@given(words=WORDS, read_at_once=st.integers(1, 30))
@example(words=["a"] * 14 + ["\u00a0", "\n", "Haus"], read_at_once=7)
@example(words=["a"] * 13 + ["\u3000", "\n\n", " ", "Haus"], read_at_once=7)
def test_pieces_have_the_tokens_of_the_whole(
    words: list[str], read_at_once: int, greedy_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = "".join(words)
    path = tmp_path_factory.mktemp("text") / "a.txt"
    if not whole:
        return
    readers.AT_ONCE = read_at_once
    found = list(pieces(write(path, whole)))
    assert found == list(in_pieces(whole.encode(), 1)), "the cuts do not depend on how the file is read"
    assert b"".join(piece.text for piece in found) == whole.encode()
    assert [i for piece in found for i in greedy_tokenizer.encode(piece.text)] == greedy_tokenizer.encode(
        whole
    )
    assert [piece.first for piece in found] == [True, *[False] * (len(found) - 1)]
    assert [piece.last for piece in found] == [*[False] * (len(found) - 1), True]


@pytest.mark.usefixtures("small_pieces")
@given(words=WORDS, read_at_once=st.integers(1, 30))
def test_separated_documents_are_those_of_split(
    words: list[str], read_at_once: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = "".join(words)
    expected = [part.strip("\r\n") for part in whole.split("<s>")]
    expected = [part for part in expected if part]
    if not expected:
        return
    readers.AT_ONCE = read_at_once
    source = write(tmp_path_factory.mktemp("text") / "a.txt", whole)
    assert texts(source, separator="<s>") == expected
    for document in read(source, separator="<s>"):
        assert not document.text.startswith("\n")


@pytest.mark.usefixtures("small_pieces")
def test_a_text_without_white_space_is_cut_within_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "LONGEST_PIECE", 64)
    source = write(tmp_path / "a.txt", "é" * 500)
    found = list(pieces(source))
    assert b"".join(piece.text for piece in found).decode() == "é" * 500
    assert max(len(piece.text) for piece in found) <= 64


def test_folders(tmp_path: Path) -> None:
    for name in ["b.txt", "a/z.md", "a/b.jsonl.gz", "c.py", "d.png", ".hidden.txt", ".git/x.txt"]:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    found, left = find_sources([tmp_path])
    assert [source.name for source in found] == ["a/b.jsonl.gz", "a/z.md", "b.txt"]
    assert left == ["c.py", "d.png"]
    found, left = find_sources([tmp_path], include=["*.py"])
    assert [(source.name, source.kind) for source in found][-1] == ("c.py", "text")
    assert left == ["d.png"]
    assert find_sources([tmp_path / "d.png"])[0][0].kind == "text", "a file that is named is taken"


@given(
    st.lists(
        st.one_of(
            st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])).map(str.encode),
            st.binary(max_size=3).map(lambda some: some.replace(b"\0", b"\xff")),
        ),
        max_size=12,
    ),
    st.integers(1, 9),
)
@example([b"caf\xc3", b"\xa9 and more"], 4)
@example(["\U0001f600".encode()[:3], b"x"], 1)
def test_what_is_not_utf8_is_found_in_chunks_of_any_size(parts: list[bytes], size: int) -> None:
    """The offset and the reason are those of Python's decoder over the whole, and no text is refused."""
    raw = b"".join(parts)
    check = readers._Utf8("a.txt")
    fault = None
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        fault = f"byte 0x{raw[error.start]:02x} at offset {error.start} ({error.reason})"
    chunks = [*(raw[at : at + size] for at in range(0, len(raw), size)), b""]
    with contextlib.nullcontext() if fault is None else pytest.raises(DataError, match=re.escape(fault)):
        for chunk in chunks:
            check(chunk)


UTF16 = "text".encode("utf-16")

BAD: list[tuple[str, bytes, str]] = [
    ("a.txt", b"", "the file is empty"),
    ("a.txt", b"\xef\xbb\xbf", "no text in the file"),
    ("a.txt", b"text\0more", r"binary, not text: got a zero byte at offset 4"),
    ("a.txt", b"%PDF-1.7 ...", "PDF"),
    ("a.txt", UTF16, "UTF-16"),
    ("a.txt", b"good \xff bad", r"not UTF-8: got byte 0xff at offset 5"),
    ("a.txt", b"\xef\xbb\xbfgood \xff", r"byte 0xff at offset 8"),
    ("a.txt", b"caf\xc3", r"byte 0xc3 at offset 3"),
    ("a.txt.gz", gzip.compress(b"text" * 1000)[:-9], "ends too early"),
    ("a.txt.gz", gzip.compress(bytes(range(255)) * 20)[:200] + b"xxxxxxxxxxxx" * 20, "damaged"),
    ("a.txt.xz", lzma.compress(b"text" * 1000)[:-9], "ends too early"),
    ("a.txt.bz2", bz2.compress(b"text" * 1000)[:-9], "ends too early"),
    ("a.jsonl", b'{"text": "a"}\n{"text": "b"\n{"text": "c"}\n', r"a\.jsonl:2: the line is not JSON"),
    ("a.jsonl", b'{"text": "a"}\n\n["b"]\n', r"a\.jsonl:3: the line is no JSON object: got list"),
    ("a.json", b'[{"text": "a"},\n {"text": "b"}]\n', r"jq -c"),
    ("a.jsonl", b'{"text": "a"}\n{"body": "b"}\n', r"a\.jsonl:2: there is no column 'text'.*'body'"),
    ("a.jsonl", b'{"text": 3}\n', r"a\.jsonl:1: the column 'text' is no text: got int"),
    ("a.jsonl", b'{"text": "a\\ud800"}\n', r"a\.jsonl:1: half of a surrogate pair"),
    ("a.jsonl", b'{"text": "' + b"[" * 10 + b'\xff"}\n', r"offset 20"),
    ("a.jsonl", b"[" * 100_000, "not JSON"),
    ("a.csv", b"body,n\nx,1\n", r"a\.csv: there is no column 'text': got the columns 'body', 'n'"),
    ("a.csv", b"text,n\nx,1\ny\n", r"a\.csv, row 2, line 3: .*another number of fields.*: got 1, expected 2"),
    ("a.csv", b'text\n"never ends', "not a table"),
    ("a.csv", b"text,text\nx,1\n", "two columns have one name"),
    ("a.parquet", b"PAR1 but no more", "not a Parquet file"),
]


@pytest.mark.parametrize(("name", "content", "said"), BAD, ids=[f"{i}-{bad[0]}" for i, bad in enumerate(BAD)])
def test_what_is_wrong_is_named(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    if name.endswith(".parquet"):
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            need(False, "pyarrow is not installed: pip install 'gpt2[data]'")
    with pytest.raises(DataError, match=said) as error:
        texts(write(tmp_path / name, content))
    assert name in str(error.value)


def test_a_cut_off_zstandard_file(tmp_path: Path) -> None:
    whole = zstd(b"some text, " * 5000)
    for stop in (len(whole) - 1, len(whole) - 20, 9):
        with pytest.raises(DataError, match=r"a\.txt\.zst: the compressed file ends too early"):
            texts(write(tmp_path / "a.txt.zst", whole[:stop]))
    with pytest.raises(DataError, match="damaged"):
        texts(write(tmp_path / "a.txt.zst", whole[:30] + b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" + whole[60:]))


def test_a_package_that_is_absent_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, content in [
        ("zstandard", "a.zst", b"\x28\xb5\x2f\xfd...."),
        ("pyarrow", "a.parquet", b"PAR1"),
    ]:
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(DataError, match=r"(?s)needs a package.*pip install \"gpt2\[data\]\""):
            texts(write(tmp_path / name, content))


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        find_sources([tmp_path / "absent.txt"])
    (tmp_path / "a.py").write_text("x")
    with pytest.raises(DataError, match=r"(?s)no text was found.*\.py.*--include"):
        find_sources([tmp_path])
    with pytest.raises(DataError, match="no text was found"):
        find_sources([])
    with pytest.raises(InvalidRequest, match="kind"):
        find_sources([tmp_path], kind="pdf")  # type: ignore[arg-type]


def test_columns_that_contradict_each_other() -> None:
    with pytest.raises(InvalidRequest, match="both, or neither"):
        Columns(prompt="a")
    with pytest.raises(InvalidRequest, match="text, or prompt"):
        Columns(text="a", prompt="b", completion="c")


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "self").symlink_to(tmp_path, target_is_directory=True)
    assert len(find_sources([tmp_path])[0]) == 1
