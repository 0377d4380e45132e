"""Read what `gpt2 quantize` writes (docs/formats/quantised.md) with numpy alone: the reader has 35 lines."""

import json
import struct
from pathlib import Path

import numpy as np

DTYPES = {"F32": "<f4", "BF16": "<u2", "I8": "i1", "U8": "u1"}


def read(folder):
    data = (Path(folder) / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    scheme = json.loads(header.pop("__metadata__")["quantization"])
    raw = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        raw[name] = np.frombuffer(data[begin:end], DTYPES[entry["dtype"]]).reshape(entry["shape"])
        if entry["dtype"] == "BF16":
            raw[name] = (raw[name].astype("<u4") << 16).view("<f4")
    weights = {name: a for name, a in raw.items() if name.endswith((".weight", ".bias"))}
    for name, scale in raw.items():
        if name.endswith(".scale"):
            matrix = name.removesuffix(".scale")
            weights[matrix] = (integers(raw, matrix, scheme) * scale).astype(np.float32)
    return weights  # [K, N]; the embedding, rounded by token, is [C, V]; both still have K's padding


def integers(raw, name, scheme):
    n = raw[name + ".scale"].size
    if name + ".q" in raw:
        q = raw[name + ".q"].transpose(1, 3, 0, 2)  # [K/4, 4, N/16, 16]
        return q.reshape(q.shape[0] * 4, -1)[:, :n].astype(int) - raw.get(name + ".zero", 0)
    q4 = raw[name + ".q4"].transpose(1, 3, 0, 2)  # [K/8, 4, N/16, 16]
    q = np.stack([q4 & 15, q4 >> 4], axis=1).reshape(q4.shape[0] * 8, -1).astype(int)
    mult = raw[name + ".mult"].astype(int)
    mult, offset = (
        np.repeat(a.transpose(1, 0, 2).reshape(a.shape[1], -1), scheme["group"], axis=0)
        for a in (mult, raw.get(name + ".offset", -8 * mult))
    )
    return (mult * q + offset)[:, :n]


if __name__ == "__main__":
    from gpt2.cards import quantise_directory
    from gpt2.weights import Scheme

    made = quantise_directory(None, "demo-int4", Scheme(method="int4"))
    for name, array in list(read(made.path).items())[-4:]:
        print(f"{name:<28} {array.shape!s:<14} {array.min():+.3f} to {array.max():+.3f}")
