"""Safetensors files that lie, one function each. Every one must be refused (test_hostile.py).

A function returns the file's bytes, or several files by name, of which the first is the one to open. Run as a
command, it writes all of them into a folder: python tests/weights/hostile_safetensors.py FOLDER
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from weights.make_files import good_safetensors, safetensors_file

Files = bytes | dict[str, bytes]
CASES: dict[str, Callable[[], Files]] = {}


def case(make: Callable[[], Files]) -> Callable[[], Files]:
    CASES[make.__name__] = make
    return make


def changed(name: str, **fields: object) -> bytes:
    """The good file with other fields in one entry."""
    header, data = good_safetensors()
    header[name].update(fields)
    return safetensors_file(header, data)


def raw(text: str | bytes, data: bytes = b"") -> bytes:
    """A file whose header is this text."""
    return safetensors_file(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"), data)


def entry(dtype: str = '"F32"', shape: str = "[1]", offsets: str = "[0,4]") -> str:
    return f'{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}'


# The file as a whole


@case
def empty_file() -> Files:
    return b""


@case
def one_byte() -> Files:
    return b"{"


@case
def only_a_length() -> Files:
    return struct.pack("<Q", 2)


@case
def header_of_no_bytes() -> Files:
    return struct.pack("<Q", 0) + b"{}" + bytes(16)


@case
def header_of_one_byte() -> Files:
    return struct.pack("<Q", 1) + b"{}" + bytes(16)


@case
def header_length_all_ones() -> Files:
    return safetensors_file(*good_safetensors(), length=(1 << 64) - 1)


@case
def header_length_sign_bit() -> Files:
    return safetensors_file(*good_safetensors(), length=1 << 63)


@case
def header_length_wraps_to_zero() -> Files:
    return safetensors_file(*good_safetensors(), length=(1 << 64) - 8)


@case
def header_length_one_beyond_the_file() -> Files:
    return safetensors_file({}, b"", length=len(safetensors_file({}, b"")) - 7)


@case
def header_length_takes_in_the_data() -> Files:
    header, data = good_safetensors()
    return safetensors_file(header, data, length=len(safetensors_file(header, b"")) - 8 + 4)


@case
def header_length_one_short() -> Files:
    header, data = good_safetensors()
    text = json.dumps(header).encode()
    return safetensors_file(text, data, length=len(text) - 1)


@case
def header_too_large() -> Files:
    return raw('{"__metadata__":{"a":"' + "x" * (3 << 20) + '"}}')


@case
def truncated_by_one_byte() -> Files:
    return safetensors_file(*good_safetensors())[:-1]


@case
def truncated_in_the_header() -> Files:
    return safetensors_file(*good_safetensors())[:40]


@case
def truncated_to_the_header() -> Files:
    header, _ = good_safetensors()
    return safetensors_file(header, b"")


@case
def one_byte_after_the_end() -> Files:
    return safetensors_file(*good_safetensors()) + b"\0"


@case
def another_file_after_the_end() -> Files:
    return safetensors_file(*good_safetensors()) * 2


@case
def no_tensors_but_data() -> Files:
    return safetensors_file({}, bytes(8))


# The header as JSON


@case
def header_is_a_list() -> Files:
    return raw("[{}]")


@case
def header_begins_with_a_space() -> Files:
    return raw(" {}")


@case
def header_begins_with_a_bom() -> Files:
    return raw("\ufeff{}")


@case
def header_is_no_json() -> Files:
    return raw("{hello}")


@case
def header_is_utf16() -> Files:
    return raw("{}".encode("utf-16-le") * 8)


@case
def header_is_not_utf8() -> Files:
    return raw(b'{"\xff\xfe":' + entry().encode() + b"}", bytes(4))


@case
def header_has_an_overlong_utf8_sequence() -> Files:
    return raw(b'{"\xc0\xaf":' + entry().encode() + b"}", bytes(4))


@case
def header_has_an_encoded_surrogate() -> Files:
    return raw(f'{{"\ud800":{entry()}}}', bytes(4))


@case
def header_has_an_escaped_lone_surrogate() -> Files:
    return raw(f'{{"\\ud800":{entry()}}}', bytes(4))


@case
def header_has_two_values() -> Files:
    return raw("{}{}")


@case
def header_padded_with_nul() -> Files:
    return raw("{}" + "\0" * 6)


@case
def header_has_a_raw_control_character() -> Files:
    return raw(f'{{"a\nb":{entry()}}}', bytes(4))


@case
def header_nested_very_deeply() -> Files:
    return raw('{"a":' + "[" * 200_000)


@case
def header_nested_very_deeply_and_closed() -> Files:
    return raw('{"a":' + "[" * 100_000 + "]" * 100_000 + "}")


@case
def entry_nested_very_deeply() -> Files:
    return raw('{"a":' * 50_000 + "1" + "}" * 50_000)


@case
def tensor_named_twice() -> Files:
    return raw(f'{{"a":{entry()},"a":{entry()}}}', bytes(4))


@case
def tensor_named_twice_by_an_escape() -> Files:
    return raw(f'{{"a":{entry()},"\\u0061":{entry(offsets="[4,8]")}}}', bytes(8))


@case
def metadata_twice() -> Files:
    return raw(f'{{"__metadata__":{{}},"__metadata__":{{"a":"b"}},"a":{entry()}}}', bytes(4))


@case
def metadata_key_twice() -> Files:
    return raw(f'{{"__metadata__":{{"a":"b","a":"c"}},"a":{entry()}}}', bytes(4))


@case
def dtype_twice() -> Files:
    return raw('{"a":{"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}}', bytes(4))


@case
def metadata_is_a_list() -> Files:
    return raw(f'{{"__metadata__":["a"],"a":{entry()}}}', bytes(4))


@case
def metadata_has_a_number() -> Files:
    return raw(f'{{"__metadata__":{{"format":1}},"a":{entry()}}}', bytes(4))


@case
def metadata_has_an_object() -> Files:
    return raw(f'{{"__metadata__":{{"format":{{"a":"b"}}}},"a":{entry()}}}', bytes(4))


@case
def twenty_thousand_tensors() -> Files:
    return safetensors_file(
        {str(i): {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i in range(20_000)},
        bytes(20_000),
    )


@case
def two_hundred_thousand_keys() -> Files:
    return raw("{" + ",".join(f'"{i}":0' for i in range(150_000)) + "}")


# One entry


@case
def entry_is_null() -> Files:
    return raw('{"a":null}')


@case
def entry_is_a_list() -> Files:
    return raw('{"a":["F32",[1],[0,4]]}', bytes(4))


@case
def entry_without_dtype() -> Files:
    return raw('{"a":{"shape":[1],"data_offsets":[0,4]}}', bytes(4))


@case
def entry_without_offsets() -> Files:
    return raw('{"a":{"dtype":"F32","shape":[0]}}')


@case
def entry_with_another_field() -> Files:
    return changed("a", strides=[3, 1])


@case
def dtype_unknown() -> Files:
    return changed("a", dtype="F33")


@case
def dtype_in_lower_case() -> Files:
    return changed("a", dtype="f32")


@case
def dtype_of_half_a_byte() -> Files:
    return changed("a", dtype="F4", shape=[48])


@case
def dtype_is_a_number() -> Files:
    return changed("a", dtype=32)


@case
def dtype_is_a_list() -> Files:
    return changed("a", dtype=["F32"])


@case
def shape_negative() -> Files:
    return changed("a", shape=[-2, -3])


@case
def shape_float() -> Files:
    return changed("a", shape=[2.0, 3])


@case
def shape_exponent() -> Files:
    return raw(f'{{"a":{entry(shape="[1e0]")}}}', bytes(4))


@case
def shape_true() -> Files:
    return raw(f'{{"a":{entry(shape="[true]")}}}', bytes(4))


@case
def shape_string() -> Files:
    return changed("a", shape="6")


@case
def shape_nan() -> Files:
    return raw(f'{{"a":{entry(shape="[NaN]")}}}', bytes(4))


@case
def shape_overflows_64_bits() -> Files:
    return changed("a", shape=[1 << 32, 1 << 32])


@case
def shape_overflows_to_the_right_size() -> Files:
    # 3 * (2^64 + 2^63) * 4 and the like: right modulo 2^64 only
    return changed("a", shape=[(1 << 62) + 6])


@case
def shape_overflows_and_returns_to_zero() -> Files:
    return raw(f'{{"a":{entry(shape="[4294967296,4294967296,0]", offsets="[0,0]")}}}')


@case
def shape_with_a_thousand_digits() -> Files:
    return raw(f'{{"a":{entry(shape="[" + "9" * 1000 + "]")}}}', bytes(4))


@case
def shape_with_ten_thousand_digits() -> Files:
    return raw(f'{{"a":{entry(shape="[" + "9" * 10_000 + "]")}}}', bytes(4))


@case
def shape_of_a_hundred_thousand_dimensions() -> Files:
    return raw(f'{{"a":{entry(shape="[" + "1," * 99_999 + "1]")}}}', bytes(4))


@case
def shape_of_nine_dimensions() -> Files:
    return changed("c", shape=[1] * 9)


@case
def shape_does_not_fit_the_offsets() -> Files:
    return changed("a", shape=[2, 4])


@case
def offsets_three() -> Files:
    return changed("a", data_offsets=[0, 12, 24])


@case
def offsets_one() -> Files:
    return changed("a", data_offsets=[24])


@case
def offsets_reversed() -> Files:
    return changed("a", data_offsets=[24, 0])


@case
def offsets_negative() -> Files:
    return changed("a", data_offsets=[-24, 0])


@case
def offsets_float() -> Files:
    return changed("a", data_offsets=[0.0, 24.0])


@case
def offsets_strings() -> Files:
    return changed("a", data_offsets=["0", "24"])


@case
def offsets_huge() -> Files:
    return changed("a", data_offsets=[(1 << 63) - 24, 1 << 63])


@case
def offsets_beyond_64_bits() -> Files:
    return changed("a", data_offsets=[1 << 64, (1 << 64) + 24])


@case
def offsets_into_the_header() -> Files:
    return changed("a", data_offsets=[-8, 16])


@case
def name_empty() -> Files:
    return raw(f'{{"":{entry()}}}', bytes(4))


@case
def name_with_nul() -> Files:
    return raw(f'{{"a\\u0000b":{entry()}}}', bytes(4))


@case
def name_with_a_terminal_escape() -> Files:
    return raw(f'{{"a\\u001b[31mb":{entry()}}}', bytes(4))


@case
def name_of_ten_thousand_characters() -> Files:
    return raw(f'{{"{"a" * 10_000}":{entry()}}}', bytes(4))


# The entries together


@case
def tensors_overlap() -> Files:
    return changed("b", data_offsets=[20, 28])


@case
def tensors_share_their_bytes() -> Files:
    header, data = good_safetensors()
    header["d"] = dict(header["a"])
    return safetensors_file(header, data)


@case
def tensor_within_another() -> Files:
    header, data = good_safetensors()
    header["d"] = {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}
    return safetensors_file(header, data)


@case
def gap_between_tensors() -> Files:
    header, data = good_safetensors()
    header["c"]["data_offsets"] = [36, 40]
    return safetensors_file(header, data + bytes(4))


@case
def gap_before_the_first() -> Files:
    return raw(f'{{"a":{entry(offsets="[4,8]")}}}', bytes(8))


@case
def data_missing_for_the_last() -> Files:
    header, data = good_safetensors()
    header["d"] = {"dtype": "F32", "shape": [1 << 40], "data_offsets": [36, 36 + (4 << 40)]}
    return safetensors_file(header, data)


@case
def empty_tensors_at_one_offset() -> Files:
    header, data = good_safetensors()
    for name in ("d", "e"):
        header[name] = {"dtype": "F32", "shape": [0], "data_offsets": [36, 36]}
    return safetensors_file(header, data)


@case
def empty_tensor_inside_another() -> Files:
    header, data = good_safetensors()
    header["d"] = {"dtype": "F32", "shape": [0], "data_offsets": [4, 4]}
    return safetensors_file(header, data)


@case
def empty_tensor_far_beyond() -> Files:
    header, data = good_safetensors()
    header["d"] = {"dtype": "F32", "shape": [0], "data_offsets": [1 << 40, 1 << 40]}
    return safetensors_file(header, data)


@case
def nine_thousand_empty_tensors() -> Files:
    one = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    return safetensors_file({f"t{i}": one for i in range(9000)}, b"")


# Names that two readers understand differently


@case
def the_same_tensor_with_and_without_prefix() -> Files:
    header = {
        "wte.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "transformer.wte.weight": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
    }
    return safetensors_file(header, bytes(8))


# Shard indexes


def index(weight_map: object, **files: bytes) -> Files:
    text = (
        weight_map if isinstance(weight_map, str) else json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    return {
        "index.json": text.encode("utf-8", "surrogatepass"),
        **{f"{k}.safetensors": v for k, v in files.items()},
    }


GOOD = safetensors_file(*good_safetensors())
OF_GOOD = dict.fromkeys("abc", "x.safetensors")


@case
def index_is_empty() -> Files:
    return index({})


@case
def index_is_a_config() -> Files:
    return {"config.json": b'{"model_type": "gpt2", "n_embd": 4}'}


@case
def index_map_is_a_list() -> Files:
    return index('{"weight_map": ["a", "x.safetensors"]}', x=GOOD)


@case
def index_leads_to_the_parent() -> Files:
    return index({"a": "../x.safetensors"}, x=GOOD)


@case
def index_leads_to_an_absolute_path() -> Files:
    return index({"a": "/etc/passwd"})


@case
def index_leads_to_a_subfolder() -> Files:
    return index({"a": "y/x.safetensors"}, x=GOOD)


@case
def index_leads_through_a_backslash() -> Files:
    return index({"a": "..\\x.safetensors"}, x=GOOD)


@case
def index_file_with_nul() -> Files:
    return index('{"weight_map": {"a": "x.safetensors\\u0000.png"}}', x=GOOD)


@case
def index_file_is_a_number() -> Files:
    return index({"a": 1})


@case
def index_file_is_the_directory() -> Files:
    return index({"a": "."})


@case
def index_to_itself() -> Files:
    return index({"a": "index.json"})


@case
def index_to_another_index() -> Files:
    other = index({"a": "x.safetensors"}, x=GOOD)
    assert isinstance(other, dict)
    return {**other, "index.json": b'{"weight_map": {"a": "b.json"}}', "b.json": other["index.json"]}


@case
def index_shard_missing() -> Files:
    return index({**OF_GOOD, "d": "gone.safetensors"}, x=GOOD)


@case
def index_tensor_missing() -> Files:
    return index({**OF_GOOD, "d": "x.safetensors"}, x=GOOD)


@case
def index_conceals_a_tensor() -> Files:
    return index({"a": "x.safetensors", "b": "x.safetensors"}, x=GOOD)


@case
def index_names_a_tensor_twice() -> Files:
    return index('{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', x=GOOD, y=GOOD)


@case
def index_shards_hold_the_same_tensors() -> Files:
    return index({"a": "x.safetensors", "b": "y.safetensors", "c": "y.safetensors"}, x=GOOD, y=GOOD)


@case
def index_of_two_thousand_files() -> Files:
    return index({str(i): f"{i}.safetensors" for i in range(2000)}, x=GOOD)


@case
def index_nested_very_deeply() -> Files:
    return index('{"weight_map":' * 50_000)


if __name__ == "__main__":
    for title, make in CASES.items():
        made = make()
        folder = Path(sys.argv[1]) / title
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in (made if isinstance(made, dict) else {"model.safetensors": made}).items():
            (folder / file).write_bytes(content)
