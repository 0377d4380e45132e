"""The pickles inside torch files, read without executing anything.

A pickle is a program for a stack machine whose GLOBAL and REDUCE opcodes import and call whatever they name.
This is an interpreter of our own for the few opcodes that a state dict needs. GLOBAL looks a name up in one
table of a few entries and imports nothing; REDUCE knows four of them and calls nothing: the result is plain
dicts, lists, numbers, strings and `TensorRef`s that say where bytes lie. Anything else is an UnsafeFile that
names what was asked for. There is no other path: no pickle module, no torch (docs/formats/torch-bin.md).

Knows nothing of files: torch_zip.py and torch_legacy.py bind the references to bytes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from gpt2.errors import CorruptFile, UnsafeFile
from gpt2.weights.strict_json import clip
from gpt2.weights.tensor import NUMPY_OF

# GPT-2 XL with its optimiser's state takes 50,000 steps, 4 deep. A hostile pickle must not buy more than a
# moment.
MAX_STEPS = 100_000
MAX_DEPTH = 100
MAX_PICKLE = 4 << 20
_MAX_DIMS = 8
_MAX_NAME = 512
_MAX_ELEMENTS = 1 << 58
_KEY = re.compile(r"[0-9A-Za-z]{1,32}")


@dataclass(frozen=True, slots=True)
class _Global:
    """A name that the allow-list has. Nothing is imported for it."""

    module: str
    name: str
    dtype: str | None = None
    """For storage classes: the dtype of their elements."""


def _storage(name: str, dtype: str, module: str = "torch") -> _Global:
    return _Global(module, name, dtype)


_ORDERED_DICT = _Global("collections", "OrderedDict")
_REBUILD = _Global("torch._utils", "_rebuild_tensor_v2")
_REBUILD_OLD = _Global("torch._utils", "_rebuild_tensor")
_PARAMETER = _Global("torch._utils", "_rebuild_parameter")

_ALLOWED: Mapping[tuple[str, str], _Global] = {
    (entry.module, entry.name): entry
    for entry in (
        _ORDERED_DICT, _REBUILD, _REBUILD_OLD, _PARAMETER,
        _storage("FloatStorage", "float32"), _storage("DoubleStorage", "float64"),
        _storage("HalfStorage", "float16"), _storage("BFloat16Storage", "bfloat16"),
        _storage("LongStorage", "int64"), _storage("IntStorage", "int32"), _storage("ShortStorage", "int16"),
        _storage("CharStorage", "int8"), _storage("ByteStorage", "uint8"), _storage("BoolStorage", "bool"),
        _storage("ComplexFloatStorage", "complex64"),
        _storage("UntypedStorage", "uint8"), _storage("UntypedStorage", "uint8", "torch.storage"),
    )
}  # fmt: skip
"""Everything that a pickle may name."""


@dataclass(frozen=True, slots=True)
class StorageRef:
    """A block of `numel` elements that the file holds under `key`."""

    key: str
    dtype: str
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * NUMPY_OF[self.dtype].itemsize


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A strided window on a storage, in elements; checked to lie within it."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Machine:
    """Runs pickles of one file; `storages` collects every storage that they mention."""

    def __init__(self, where: str, *, legacy: bool = False) -> None:
        self.where = where
        self._pid_length = 6 if legacy else 5
        self.storages: dict[str, StorageRef] = {}
        self._steps = 0

    def run(self, data: bytes, start: int = 0) -> tuple[Any, int]:
        """Run the pickle at `data[start:]`. Returns its value and the position after its STOP.

        Raises UnsafeFile (it asks for something beyond tensors) or CorruptFile (it is no valid pickle).
        """
        self.data, self.at = data, start
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        begun = start
        try:
            while True:
                begun = self.at
                code = data[begun]
                self.at = begun + 1
                if code == _STOP:
                    break
                self._steps += 1
                if self._steps > MAX_STEPS:
                    raise CorruptFile(f"the pickle takes more than {MAX_STEPS:,} steps", where=self.where)
                step = _STEPS.get(code)
                if step is None:
                    raise self._unknown(code, begun)
                step(self)
            value = self.stack.pop()
        except (IndexError, KeyError, UnicodeDecodeError, struct.error):
            raise CorruptFile(
                f"the pickle breaks off or contradicts itself at byte {begun}", where=self.where
            ) from None
        if self.stack or self.marks:
            raise CorruptFile("the pickle leaves something behind", where=self.where, got=f"byte {self.at}")
        return value, self.at

    def take(self, count: int) -> bytes:
        """The next `count` bytes of the pickle."""
        piece = self.data[self.at : self.at + count]
        if len(piece) != count:
            raise IndexError
        self.at += count
        return piece

    def popmark(self) -> list[Any]:
        """What lies above the last MARK."""
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def bad(self, what: str, got: object = None) -> CorruptFile:
        """An error at the current position."""
        return CorruptFile(f"the pickle, at byte {self.at}: {what}", where=self.where, got=got)

    def unsafe(self, what: str) -> UnsafeFile:
        """An error for something that only running code could give."""
        return UnsafeFile(
            f"the pickle, at byte {self.at}, {what}",
            where=self.where,
            expected="only tensors, dicts, lists, numbers and strings",
            likely="the file holds more than a state dict; nothing of it was executed",
            hint="ask for the model as safetensors, or save only model.state_dict()",
        )

    def _unknown(self, code: int, begun: int) -> UnsafeFile | CorruptFile:
        if code in _OTHER_OPCODES:
            return self.unsafe(f"uses the opcode {_OTHER_OPCODES[code]}")
        return CorruptFile(
            f"the pickle has no valid opcode at byte {begun}", where=self.where, got=f"{code:#04x}"
        )

    # What the opcodes that name and call things come down to.

    def find(self, module: str, name: str) -> _Global:
        """GLOBAL: a look-up in the allow-list, never an import."""
        found = _ALLOWED.get((module, name))
        if found is None:
            raise self.unsafe(f"asks for {clip(f'{module}.{name}')}")
        return found

    def reduce(self, function: object, args: object) -> Any:
        """REDUCE: build a plain value for one of four names."""
        if type(args) is not tuple:
            raise self.bad("REDUCE without a tuple of arguments")
        if function is _ORDERED_DICT:
            return self._ordered_dict(args)
        if function is _REBUILD and len(args) in (6, 7) and type(args[4]) is bool:
            if type(args[5]) is not dict or args[5]:
                raise self.unsafe("gives a tensor hooks")
            if len(args) == 7 and args[6] is not None and (type(args[6]) is not dict or args[6]):
                # Metadata can say that the values are to be negated or conjugated when they are read.
                raise self.unsafe("gives a tensor metadata")
            return self._tensor(*args[:4])
        if function is _REBUILD_OLD and len(args) == 4:
            return self._tensor(*args)
        if function is _PARAMETER and [type(arg) for arg in args[:2]] == [TensorRef, bool] and len(args) == 3:
            if type(args[2]) is not dict or args[2]:
                raise self.unsafe("gives a parameter hooks")
            return args[0]
        if isinstance(function, _Global):
            raise self.unsafe(f"calls {function.module}.{function.name} with other arguments than torch does")
        raise self.unsafe(f"calls a value of type {type(function).__name__}")

    def _ordered_dict(self, args: tuple[Any, ...]) -> dict[str | int, Any]:
        out: dict[str | int, Any] = {}
        if not args:
            return out
        if len(args) != 1 or type(args[0]) is not list:
            raise self.bad("OrderedDict with impossible arguments")
        for pair in args[0]:
            if type(pair) not in (list, tuple) or len(pair) != 2:
                raise self.bad("OrderedDict with impossible arguments")
            self.put(out, pair[0], pair[1])
        return out

    def put(self, target: object, key: object, value: object) -> None:
        """SETITEM. Keys are strings or ints: hashing a nested tuple could take for ever."""
        if type(target) is not dict or type(key) not in (str, int):
            raise self.bad("SETITEM on what is no dict, or with a key that is no string")
        if key in target:
            raise self.bad("a key of a dict occurs twice", clip(key))
        target[key] = value

    def storage(self, pid: object) -> StorageRef:
        """BINPERSID: ("storage", class, key, location, numel[, view]). The location ("cuda:0") is ignored."""
        if (
            type(pid) is not tuple or len(pid) != self._pid_length or pid[0] != "storage"
            or not isinstance(pid[1], _Global) or pid[1].dtype is None
            or type(pid[2]) is not str or not _KEY.fullmatch(pid[2])
            or type(pid[3]) is not str or not _is_count(pid[4])
        ):  # fmt: skip
            raise self.bad("an impossible reference to a storage")
        if pid[5:] not in ((), (None,)):
            raise self.bad("a storage that is a view of another one, which only torch before 0.4 wrote")
        ref = StorageRef(pid[2], pid[1].dtype, pid[4])
        known = self.storages.setdefault(ref.key, ref)
        if known != ref:
            raise self.bad(f"storage {clip(ref.key)} has two types or sizes", f"{ref.dtype} x {ref.numel}")
        return known

    def _tensor(self, storage: object, offset: object, shape: object, stride: object) -> TensorRef:
        """A window on a storage; the last element that it reaches must be in it."""
        if type(storage) is not StorageRef:
            raise self.bad("a tensor without a storage")
        if (
            not _is_count(offset)
            or type(shape) is not tuple or len(shape) > _MAX_DIMS or not all(map(_is_count, shape))
            or type(stride) is not tuple or len(stride) != len(shape) or not all(map(_is_count, stride))
        ):  # fmt: skip
            raise self.bad("a tensor with impossible sizes, strides or offset")
        numel, last = 1, offset
        for size, step in zip(shape, stride, strict=True):
            numel *= size
            last += max(size - 1, 0) * step
        if numel > storage.numel or (numel and last >= storage.numel) or offset > storage.numel:
            raise self.bad(
                "a tensor reaches beyond its storage",
                f"sizes {clip(shape)}, strides {clip(stride)}, offset {offset} on {storage.numel} elements",
            )
        return TensorRef(storage, offset, shape, stride)


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= _MAX_ELEMENTS


def state_dict(value: object, where: str) -> dict[str, TensorRef]:
    """The tensors by name, from the value of a checkpoint's pickle.

    A checkpoint is a state dict, or a dict that holds one under a usual key ("model", "state_dict", ...)
    beside numbers and optimiser state. Raises WeightsError (a CorruptFile) where there is none, or more than
    one.
    """
    if type(value) is not dict:
        raise CorruptFile("the file holds no state dict", where=where, got=type(value).__name__)
    nested = [key for key in _USUAL_KEYS if type(value.get(key)) is dict and _tensors_of(value[key])]
    if len(nested) > 1:
        raise CorruptFile(
            "the file holds several state dicts", where=where, got=", ".join(nested), expected="one",
            hint="save the one that is wanted in a file of its own",
        )  # fmt: skip
    found = _tensors_of(value[nested[0]] if nested else value)
    if not found:
        keys = ", ".join(clip(key, 30) for key in list(value)[:6])
        raise CorruptFile(
            "the file holds no tensors", where=where, got=f"keys: {keys}" if keys else "an empty dict"
        )
    for name in found:
        if not 0 < len(name) <= _MAX_NAME or not name.isprintable():
            raise CorruptFile(f"tensor {clip(name)} has an impossible name", where=where)
    return found


_USUAL_KEYS = ("model", "state_dict", "model_state_dict", "module")


def _tensors_of(value: dict[Any, Any]) -> dict[str, TensorRef]:
    return {key: item for key, item in value.items() if type(key) is str and type(item) is TensorRef}


# The opcodes. Each is one line of the pickle protocol's definition (Python's pickletools.py).

_STOP = ord(".")


def _global(m: Machine) -> None:
    end = m.data.find(b"\n", m.at, m.at + 256)
    stop = m.data.find(b"\n", end + 1, end + 257) if end >= 0 else -1
    if stop < 0:
        raise IndexError
    module, name = m.data[m.at : end].decode("utf-8"), m.data[end + 1 : stop].decode("utf-8")
    m.at = stop + 1
    m.stack.append(m.find(module, name))


def _stack_global(m: Machine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    if type(name) is not str or type(module) is not str:
        raise m.bad("STACK_GLOBAL without two strings")
    m.stack.append(m.find(module, name))


def _reduce(m: Machine) -> None:
    args = m.stack.pop()
    m.stack[-1] = m.reduce(m.stack[-1], args)


def _build(m: Machine) -> None:
    # torch gives a state dict an attribute `_metadata` in this way; it says nothing about the tensors.
    if type(m.stack.pop()) is not dict or type(m.stack[-1]) is not dict:
        raise m.unsafe("sets the state of an object")


def _setitem(m: Machine) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    m.put(m.stack[-1], key, value)


def _setitems(m: Machine) -> None:
    items = m.popmark()
    if len(items) % 2:
        raise m.bad("SETITEMS with a key and no value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        m.put(m.stack[-1], key, value)


def _append(m: Machine) -> None:
    value = m.stack.pop()
    _extend(m, [value])


def _extend(m: Machine, items: list[Any]) -> None:
    if type(m.stack[-1]) is not list:
        raise m.bad("APPEND to what is no list")
    m.stack[-1].extend(items)


def _mark(m: Machine) -> None:
    if len(m.marks) >= MAX_DEPTH:
        raise m.bad(f"more than {MAX_DEPTH} open marks")
    m.marks.append(m.stack)
    m.stack = []


def _long_tuple(m: Machine) -> None:
    items = m.popmark()
    m.stack.append(tuple(items))


def _tuple(count: int) -> Callable[[Machine], None]:
    def step(m: Machine) -> None:
        if len(m.stack) < count:
            raise IndexError
        m.stack[-count:] = [tuple(m.stack[-count:])]

    return step


def _unicode(width: str) -> Callable[[Machine], None]:
    size = struct.calcsize(width)

    def step(m: Machine) -> None:
        (length,) = struct.unpack(width, m.take(size))
        m.stack.append(m.take(length).decode("utf-8"))

    return step


def _number(width: str) -> Callable[[Machine], None]:
    size = struct.calcsize(width)

    def step(m: Machine) -> None:
        m.stack.append(struct.unpack(width, m.take(size))[0])

    return step


def _long1(m: Machine) -> None:
    length = m.take(1)[0]
    if length > 16:  # torch writes 10 bytes at most: its magic number
        raise m.bad("an integer of more than 16 bytes", length)
    m.stack.append(int.from_bytes(m.take(length), "little", signed=True))


def _put(width: str) -> Callable[[Machine], None]:
    size = struct.calcsize(width)

    def step(m: Machine) -> None:
        m.memo[struct.unpack(width, m.take(size))[0]] = m.stack[-1]

    return step


def _get(width: str) -> Callable[[Machine], None]:
    size = struct.calcsize(width)

    def step(m: Machine) -> None:
        m.stack.append(m.memo[struct.unpack(width, m.take(size))[0]])

    return step


def _memoize(m: Machine) -> None:
    m.memo[len(m.memo)] = m.stack[-1]


def _proto(m: Machine) -> None:
    version = m.take(1)[0]
    if not 2 <= version <= 5:
        raise m.bad("an unknown pickle protocol", version)


def _push(value: object) -> Callable[[Machine], None]:
    return lambda m: m.stack.append(value)


_STEPS: Mapping[int, Callable[[Machine], None]] = {
    code[0]: step
    for code, step in (
        (b"\x80", _proto), (b"\x95", lambda m: (m.take(8), None)[1]),  # FRAME: a length, of no use here
        (b"c", _global), (b"\x93", _stack_global), (b"R", _reduce), (b"b", _build),
        (b"Q", lambda m: m.stack.append(m.storage(m.stack.pop()))),  # BINPERSID
        (b"(", _mark), (b"}", lambda m: m.stack.append({})), (b"]", lambda m: m.stack.append([])),
        (b")", _push(())), (b"t", _long_tuple),
        (b"\x85", _tuple(1)), (b"\x86", _tuple(2)), (b"\x87", _tuple(3)),
        (b"s", _setitem), (b"u", _setitems), (b"a", _append), (b"e", lambda m: _extend(m, m.popmark())),
        (b"N", _push(None)), (b"\x88", _push(True)), (b"\x89", _push(False)),
        (b"K", _number("<B")), (b"M", _number("<H")), (b"J", _number("<i")), (b"G", _number(">d")),
        (b"\x8a", _long1), (b"X", _unicode("<I")), (b"\x8c", _unicode("<B")), (b"U", _unicode("<B")),
        (b"q", _put("<B")), (b"r", _put("<I")), (b"\x94", _memoize), (b"h", _get("<B")), (b"j", _get("<I")),
    )
}  # fmt: skip

# Opcodes that make or call objects, or that no state dict needs: refused by name.
_OTHER_OPCODES: Mapping[int, str] = {
    ord("0"): "POP", ord("1"): "POP_MARK", ord("2"): "DUP", ord("F"): "FLOAT", ord("I"): "INT",
    ord("L"): "LONG", ord("P"): "PERSID", ord("S"): "STRING", ord("T"): "BINSTRING", ord("V"): "UNICODE",
    ord("d"): "DICT", ord("l"): "LIST", ord("g"): "GET", ord("p"): "PUT", ord("i"): "INST", ord("o"): "OBJ",
    ord("B"): "BINBYTES", ord("C"): "SHORT_BINBYTES", 0x81: "NEWOBJ", 0x82: "EXT1", 0x83: "EXT2",
    0x84: "EXT4", 0x8B: "LONG4", 0x8D: "BINUNICODE8", 0x8E: "BINBYTES8", 0x8F: "EMPTY_SET", 0x90: "ADDITEMS",
    0x91: "FROZENSET", 0x92: "NEWOBJ_EX", 0x96: "BYTEARRAY8", 0x97: "NEXT_BUFFER", 0x98: "READONLY_BUFFER",
}  # fmt: skip
