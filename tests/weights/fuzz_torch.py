"""Fuzz the readers of torch files: good pickles with other opcodes and arguments, in good and broken
containers.

    python tests/weights/fuzz_torch.py --seconds 60
    python tests/weights/fuzz_torch.py --inputs 100000 --seed 7 --oracle

With --oracle, torch.load(weights_only=True) must read whatever is accepted, with the same values.
"""

from __future__ import annotations

import pickletools
import random
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gpt2.weights import Weights
from weights.fuzzing import INTERESTING, flip, main
from weights.make_files import (
    EMPTY_ODICT,
    FALSE,
    NONE,
    ODICT,
    Entry,
    call,
    glob,
    good_pickle,
    ints,
    num,
    odict,
    pid,
    program,
    system_info,
    tensor,
    torch_entries,
    tup,
    uni,
    zip_file,
)

# Opcodes and fragments to put where they do not belong, dangerous ones among them.
FRAGMENTS = [
    *(bytes([code]) for code in range(256)), *(bytes([code]) for code in b"(tusRb0}])N."),
    ODICT, EMPTY_ODICT, FALSE, NONE, uni("a"), uni(""), uni("storage"), uni("x" * 700), uni(b"\xff"),
    pid(), pid("1"), pid(storage="IntStorage"), pid(numel=1 << 40), tensor(pid()),
    ints(2, 3), ints(-1), ints(1 << 60), tup(),
    glob("os", "system"), glob("builtins", "eval"), glob("torch", "FloatStorage"), glob("torch", "Tensor"),
    glob("torch._utils", "_rebuild_parameter"), call(glob("os", "system"), uni("true")),
    b"h\x00", b"q\x00", b"\x94", b"j\xff\xff\xff\xff",
    b"\x8c\x02os\x8c\x06system\x93", b"\x95" + bytes(8), b"G" + bytes(8),
]  # fmt: skip


def tokens(pickle: bytes) -> list[bytes]:
    """A pickle as a list of whole opcodes."""
    starts = [at for _, _, at in pickletools.genops(pickle) if at is not None]
    return [pickle[a:b] for a, b in zip(starts, [*starts[1:], len(pickle)], strict=True)]


def nested() -> bytes:
    two = odict(a=tensor(pid()), b=tensor(pid(), offset=3, shape=ints(3), stride=ints(1)))
    return program(
        odict(model=two, step=num(1000), rate=b"G" + struct.pack(">d", 0.5), more=b"](" + NONE + b"e")
    )


PARAMETER = call(glob("torch._utils", "_rebuild_parameter"), tensor(pid()), FALSE, EMPTY_ODICT)
PICKLES = [
    tokens(good_pickle()),
    tokens(good_pickle(b"}" + uni("_metadata") + EMPTY_ODICT + b"sb")),
    tokens(nested()),
    tokens(program(odict(a=PARAMETER))),
]  # fmt: skip


def make(rng: random.Random) -> bytes:
    """One input: a pickle, perhaps changed, in a zip or a legacy file, perhaps changed."""
    program_tokens = list(rng.choice(PICKLES))
    for _ in range(rng.randrange(0, 4)):
        change(rng, program_tokens)
    pickle = b"".join(program_tokens)
    if rng.random() < 0.1:
        pickle = flip(rng, pickle, rng.randrange(1, 4))
    data = legacy(rng, pickle) if rng.random() < 0.3 else archive(rng, pickle)
    if rng.random() < 0.1:
        data = flip(rng, data, rng.randrange(1, 4))
    if rng.random() < 0.05:
        data = data[: rng.randrange(len(data) + 1)]
    return data


def change(rng: random.Random, parts: list[bytes]) -> None:
    """Remove, repeat, move, replace an opcode, or change its number."""
    at = rng.randrange(len(parts))
    match rng.randrange(6):
        case 0:
            del parts[at]
            parts or parts.append(b".")
        case 1:
            parts.insert(at, parts[at])
        case 2:
            parts.insert(rng.randrange(len(parts)), parts.pop(at))
        case 3:
            parts[at] = rng.choice(FRAGMENTS)
        case 4:
            parts.insert(at, rng.choice(FRAGMENTS))
        case 5:
            numbers = [i for i, part in enumerate(parts) if part[:1] in b"KMJ\x8a"]
            if numbers:
                parts[rng.choice(numbers)] = num(rng.choice([v for v in INTERESTING if abs(v) < 1 << 64]))


def archive(rng: random.Random, pickle: bytes) -> bytes:
    entries = torch_entries(pickle)
    options: dict[str, object] = {}
    for _ in range(rng.choice([0, 0, 0, 1, 1, 2])):
        entry = rng.choice(entries)
        match rng.randrange(9):
            case 0:
                entry.flags = rng.choice([1, 8, 0x800, 0x808, 0x2000, rng.randrange(1 << 16)])
            case 1:
                entry.method = rng.choice([0, 8, 12, 14, 99])
            case 2:
                entry.size = rng.choice(INTERESTING) % (1 << 32)
                entry.packed = entry.size
            case 3:
                key = rng.choice(["flags", "method", "crc", "size", "packed"])
                entry.local = {
                    key: rng.choice(INTERESTING) % (1 << (16 if key in ("flags", "method") else 32))
                }
            case 4:
                entry.header = rng.choice([0, 1, len(pickle), rng.choice(INTERESTING) % (1 << 32)])
            case 5:
                name = rng.choice(
                    ["m/data.pkl", "m/data/0", "m/../x", "n/data.pkl", "", "m/x\0", "m/code/a.py"]
                )
                setattr(entry, rng.choice(["name", "local_name"]), name)
            case 6:
                entries.insert(
                    rng.randrange(len(entries) + 1), Entry("m/data/1", rng.randbytes(rng.randrange(9)))
                )
            case 7:
                entry.before = rng.choice([b"PK\x03\x04", b"\0", bytes(30)])
            case 8:
                key = rng.choice(["comment", "after", "count", "offset", "size", "disk", "zip64"])
                bits = 16 if key in ("count", "disk") else 32
                text = rng.choice([b"\0", b"PK\x05\x06" + bytes(18), b"PK\x06\x07" + rng.randbytes(16)])
                options[key] = (
                    text if key in ("comment", "after", "zip64") else rng.choice(INTERESTING) % (1 << bits)
                )
    return zip_file(entries, **options)  # type: ignore[arg-type]


def legacy(rng: random.Random, pickle: bytes) -> bytes:
    head = [program(num(0x1950A86A20F9469CFC6C)), program(num(1001)), program(system_info())]
    keys = program(b"](" + uni("0") + b"e")
    # In this format a storage's reference has a sixth item: None, no view.
    body = pickle.replace(b"K\x06tQ", b"K\x06NtQ").replace(b"K\x06q\x00tQ", b"K\x06NtQ")
    count = struct.pack("<q", 6 if rng.random() < 0.9 else rng.choice([0, 7, -1, 1 << 40]))
    parts = [*head, body, keys, count + bytes(range(24))]
    if rng.random() < 0.1:
        parts.insert(rng.randrange(len(parts)), parts.pop(rng.randrange(len(parts))))
    if rng.random() < 0.1:
        at = rng.randrange(len(parts))
        parts[at] = flip(rng, parts[at], 1)
    return b"".join(parts)


def same_as_torch(path: Path, weights: Weights) -> None:
    """torch accepts the file, too, and gives the same bytes under the same names."""
    import pickle

    import torch

    try:
        whole = torch.load(path, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        # torch writes protocol 4 where asked, and does not read it here; and it goes by the device that a
        # storage was on ("cpu"), which means nothing to a reader that only maps.
        if "Unsupported operand" in str(error) or "restore data location" in str(error):
            return
        raise
    found: dict[str, bytes] = {}
    for part in (whole, *(value for value in whole.values() if isinstance(value, dict))):
        for name, value in part.items():
            if isinstance(value, torch.Tensor):
                raw = value.detach().contiguous().reshape(-1)
                found[name] = raw.view(torch.uint8).numpy().tobytes() if raw.numel() else b""
    for name, value in weights.items():
        if found.get(name) != value.array.tobytes():
            raise AssertionError(f"torch reads {name!r} differently")


if __name__ == "__main__":
    main(make, "fuzz torch", same_as_torch)
