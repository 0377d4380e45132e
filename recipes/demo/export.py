"""Write the trained demo model as a Hugging Face model directory: what every GPT-2 program reads.

    python recipes/demo/export.py --data OUT/data --checkpoint OUT/run/final.pt --to src/gpt2/assets/demo

Writes config.json, generation_config.json, model.safetensors (bfloat16, canonical names without
`transformer.`, the Conv1D layout [in, out], no head since it is tied to wte) and copies the tokenizer files.
Same checkpoint, same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from model import Shape

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt")
MODULES = {"c_attn": "attn.c_attn", "attn_proj": "attn.c_proj", "c_fc": "mlp.c_fc", "mlp_proj": "mlp.c_proj"}
"""Our linear layers -> Hugging Face's names. Theirs are Conv1D: the weight is the transpose of
nn.Linear's."""


def hugging_face_tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The model's state with Hugging Face's names and layouts, in bfloat16, in the order of the names."""
    tensors = {}
    for name, tensor in state.items():
        parts = name.removeprefix("blocks.").split(".")
        layer = parts[2] if parts[0] == "h" else ""
        if layer in MODULES:
            parts[2] = MODULES[layer]
            tensor = tensor.t() if parts[3] == "weight" else tensor
        tensors[".".join(parts)] = tensor.to(torch.bfloat16).contiguous()
    return dict(sorted(tensors.items()))


def config(shape: Shape) -> dict[str, Any]:
    """config.json with every field of Hugging Face's GPT2Config that says something about the model."""
    end = shape.vocab_size - 1
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "dtype": "bfloat16",
        "vocab_size": shape.vocab_size,
        "n_positions": shape.n_positions,
        "n_embd": shape.n_embd,
        "n_layer": shape.n_layer,
        "n_head": shape.n_head,
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-05,
        "initializer_range": 0.02,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
        "use_cache": True,
        "tie_word_embeddings": True,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": None,
    }


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8", newline="\n")


def export(data: Path, checkpoint: Path, to: Path) -> None:
    saved = torch.load(checkpoint, weights_only=True)
    shape = Shape(**saved["shape"])
    to.mkdir(parents=True, exist_ok=True)
    save_file(hugging_face_tensors(saved["model"]), to / "model.safetensors", metadata={"format": "pt"})
    write_json(to / "config.json", config(shape))
    end = shape.vocab_size - 1
    write_json(to / "generation_config.json", {"bos_token_id": end, "eos_token_id": end})
    for name in TOKENIZER_FILES:
        shutil.copyfile(data / name, to / name)
    (to / "model.safetensors").chmod(0o644)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the output folder of prepare.py")
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="final.pt, or checkpoint.pt for a look"
    )
    parser.add_argument("--to", type=Path, required=True, help="the model directory to write")
    args = parser.parse_args()
    export(args.data, args.checkpoint, args.to)
    total = 0
    for path in sorted(args.to.iterdir()):
        total += path.stat().st_size
        print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.stat().st_size:>10,}  {path.name}")
    print(f"{total:,} bytes in all")


if __name__ == "__main__":
    main()
