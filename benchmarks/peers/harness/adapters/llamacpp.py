"""llama.cpp through llama-cpp-python's low-level functions, built here for this processor.

Setting: weights mapped and repacked into the processor's layout where llama.cpp has one, micro-batches of
512, the threads asked for in both phases, the cache in float16 (its default), a context of just the size
that the run needs, logits of the last position only, greedy choice in numpy; flash attention off or on, as
the row says. The files: a GGUF that this file writes (the package gguf), narrowed by llama.cpp's own
quantiser with its defaults: the tied embedding and head stay wider than the blocks (Q6_K in Q4_0).
"""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from harness.operations import Prompts
from harness.stepping import SteppedEngine

FILE_TYPES = {
    "bf16": llama_cpp.LLAMA_FTYPE_MOSTLY_BF16,
    "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
}

TENSORS = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
OUTSIDE = {
    "wte.weight": "token_embd.weight",
    "wpe.weight": "position_embd.weight",
    "ln_f.weight": "output_norm.weight",
    "ln_f.bias": "output_norm.bias",
}


def convert(checkpoint: Path, folder: Path, options: dict[str, Any]) -> None:
    plain = folder / "model.gguf" if options["type"] == "f32" else folder / "float32.gguf"
    write_gguf(checkpoint, plain)
    if options["type"] == "f32":
        return
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[options["type"]]
    target = str(folder / "model.gguf").encode()
    if llama_cpp.llama_model_quantize(str(plain).encode(), target, ctypes.byref(params)):
        raise RuntimeError("llama_model_quantize failed")
    plain.unlink()


def write_gguf(checkpoint: Path, path: Path) -> None:
    """The checkpoint as float32 GGUF: [in, out] matrices become [out, in], vocabulary and merges go along."""
    import gguf
    from safetensors.numpy import load_file

    config = json.loads((checkpoint / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_block_count(config["n_layer"])
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(4 * config["n_embd"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_file_type(0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    tokens = list(json.loads((checkpoint / "vocab.json").read_text(encoding="utf-8")))
    writer.add_token_list(tokens)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([normal] * (len(tokens) - 1) + [control])
    writer.add_token_merges((checkpoint / "merges.txt").read_text(encoding="utf-8").splitlines()[1:])
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_bos_token_id(len(tokens) - 1)
    for name, array in load_file(checkpoint / "model.safetensors").items():
        matrix = array.ndim == 2 and name not in OUTSIDE
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(array.T) if matrix else array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    """h.3.attn.c_attn.weight is blk.3.attn_qkv.weight."""
    if name in OUTSIDE:
        return OUTSIDE[name]
    _, layer, rest = name.split(".", 2)
    inner, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{TENSORS[inner]}.{kind}"


@llama_cpp.llama_log_callback
def _silent(level: int, text: bytes, data: Any) -> None:
    """llama.cpp reports every tensor otherwise."""


class Engine(SteppedEngine):
    def __init__(self, folder: Path, checkpoint: Path, threads: int, options: dict[str, Any]) -> None:
        llama_cpp.llama_log_set(_silent, None)
        llama_cpp.llama_backend_init()
        self.threads, self.flash = threads, options["flash"]
        path = str(folder / "model.gguf").encode()
        self.model = llama_cpp.llama_model_load_from_file(path, llama_cpp.llama_model_default_params())
        if not self.model:
            raise RuntimeError("llama_model_load_from_file failed")
        self.vocabulary = json.loads((checkpoint / "config.json").read_text())["vocab_size"]
        self.context: Any = None
        self.shape = (0, 0)

    def prepare(self, prompts: Prompts, new_tokens: int) -> None:
        """A context of that many sequences and positions, and a batch to fill; both are kept while they
        fit.
        """
        shape = (len(prompts), len(prompts[0]) + new_tokens)
        if shape == self.shape:
            return
        if self.context:
            llama_cpp.llama_batch_free(self.batch)
            llama_cpp.llama_free(self.context)
        params = llama_cpp.llama_context_default_params()
        params.n_seq_max = shape[0]
        params.n_ctx = shape[0] * shape[1]
        params.n_batch = max(512, shape[0] * len(prompts[0]))
        params.n_ubatch = 512
        params.n_threads = params.n_threads_batch = self.threads
        kinds = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED, llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.flash_attn_type = kinds[0] if self.flash else kinds[1]
        params.no_perf = True
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError(f"no context for {shape[0]} sequences of {shape[1]}")
        self.batch = llama_cpp.llama_batch_init(params.n_batch, 0, 1)
        self.shape = shape

    def start(self, prompts: Prompts, new_tokens: int) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), False)
        self.length = 0
        self._decode(prompts)

    def step(self) -> None:
        self._decode([[id] for id in self.tokens])

    def chosen(self) -> list[int]:
        return self.tokens

    def _decode(self, rows: Prompts) -> None:
        """One forward pass over the new tokens of each sequence; the greedy choices go to self.tokens."""
        batch, at = self.batch, 0
        for sequence, ids in enumerate(rows):
            for offset, id in enumerate(ids):
                batch.token[at] = id
                batch.pos[at] = self.length + offset
                batch.n_seq_id[at] = 1
                batch.seq_id[at][0] = sequence
                batch.logits[at] = offset == len(ids) - 1
                at += 1
        batch.n_tokens = at
        if status := llama_cpp.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode returned {status}")
        self.length += len(rows[0])
        per_row = len(rows[0])
        self.tokens = [self._greedy((i + 1) * per_row - 1) for i in range(len(rows))]

    def _greedy(self, at: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(self.context, at)
        return int(np.ctypeslib.as_array(logits, shape=(self.vocabulary,)).argmax())
