"""The one table of GPT-2's tensors: canonical names, shapes and layout; and what to say when a file differs.

A canonical name is Hugging Face's without the `transformer.` prefix. Each block stores its four matrices as
Conv1D does: [in, out], so that y = x @ W + b; PyTorch's Linear (and nanoGPT) stores [out, in]. The embeddings
wte and wpe are tables of rows [rows, C]. An untied lm_head.weight is [V, C]. This is the only place that says
so.

    wte.weight [V, C]   wpe.weight [T, C]
    h.{i}.ln_1.weight, .bias [C]
    h.{i}.attn.c_attn.weight [C, 3C], .bias [3C]     columns: all queries, all keys, all values; head by head
    h.{i}.attn.c_proj.weight [C, C], .bias [C]
    h.{i}.ln_2.weight, .bias [C]
    h.{i}.mlp.c_fc.weight [C, I], .bias [I]   h.{i}.mlp.c_proj.weight [I, C], .bias [C]
    ln_f.weight, .bias [C]   lm_head.weight [V, C] where the head is not tied

In a quantised model each matrix but wpe is stored as several tensors (packed.py says which).

Knows no file format: it works on the `Weights` that any reader made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from gpt2.config import KNOWN_SIZES, GPT2Config, known_size
from gpt2.errors import ConfigError, WeightsError
from gpt2.weights.packed import SUFFIXES, Stored, check_values, stored_tensors
from gpt2.weights.scheme import KEY, Scheme
from gpt2.weights.strict_json import clip
from gpt2.weights.tensor import FLOATS, Tensor, Weights

Shape: TypeAlias = tuple[int, ...]
Layout: TypeAlias = Literal["conv1d", "linear"]
"""How a file stores the matrices of a block: [in, out] (Hugging Face, OpenAI) or [out, in] (nanoGPT)."""

# Wrappers that saving code adds in front of every name.
_WRAPPERS = ("_orig_mod.", "module.", "transformer.")
# Constants that Hugging Face once saved with the weights: the causal mask and the score of a masked position.
_BUFFER = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
_MATRIX = re.compile(r"h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight")
_BLOCK = re.compile(r"h\.(\d{1,4})\.")


def expected_shapes(config: GPT2Config) -> dict[str, Shape]:
    """Every tensor that a model of this config has, in the order of the forward pass."""
    c, inner = config.n_embd, config.inner
    block: dict[str, Shape] = {
        "ln_1.weight": (c,), "ln_1.bias": (c,),
        "attn.c_attn.weight": (c, 3 * c), "attn.c_attn.bias": (3 * c,),
        "attn.c_proj.weight": (c, c), "attn.c_proj.bias": (c,),
        "ln_2.weight": (c,), "ln_2.bias": (c,),
        "mlp.c_fc.weight": (c, inner), "mlp.c_fc.bias": (inner,),
        "mlp.c_proj.weight": (inner, c), "mlp.c_proj.bias": (c,),
    }  # fmt: skip
    shapes: dict[str, Shape] = {"wte.weight": (config.vocab_size, c), "wpe.weight": (config.n_positions, c)}
    for i in range(config.n_layer):
        shapes.update((f"h.{i}.{name}", shape) for name, shape in block.items())
    shapes.update({"ln_f.weight": (c,), "ln_f.bias": (c,)})
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, c)
    return shapes


def canonical_name(name: str) -> str:
    """`name` without the prefixes that saving code adds."""
    while name.startswith(_WRAPPERS):
        name = name.split(".", 1)[1]
    return name


def canonical(weights: Weights, *, layout: Layout = "conv1d") -> Weights:
    """The same tensors by their canonical names, without Hugging Face's constant buffers.

    layout="linear" says that the file stores the blocks' matrices as [out, in]: they become transposed views.
    Raises WeightsError where two tensors have the same canonical name.
    """
    out: dict[str, Tensor] = {}
    for given, tensor in weights.items():
        name = canonical_name(given)
        if _BUFFER.fullmatch(name):
            continue
        if name in out:
            raise WeightsError(
                f"two tensors are both {clip(name)}",
                where=str(weights.path),
                got=f"{clip(given)} and another",
            )
        array = tensor.array
        if layout == "linear" and array.ndim == 2 and _MATRIX.fullmatch(name):
            array = array.T
        out[name] = Tensor(name, tensor.dtype, array.shape, array, tensor.file)
    return weights.replaced(out.values())


def check_weights(weights: Weights, config: GPT2Config, *, finite: bool = False) -> None:
    """Hold `weights` (canonical names) to `config`: every tensor there, none besides, each as it must be.

    A tied model may repeat its head in the file: the bytes must then be those of wte. Not-a-number and
    infinite values are accepted, as by every other reader; finite=True reads every byte and refuses them.
    Of a quantised model (config.json says so) the tensors are those of packed.py, and their scales and
    multipliers are always checked. Raises WeightsError, ConfigError.
    """
    if (scheme := Scheme.of(config)) is not None:
        return _check_quantised(weights, config, scheme, finite)
    expected = expected_shapes(config)
    # Shapes first: where file and config are of two sizes, a wrong width says more than a missing block.
    for name, shape in expected.items():
        if name in weights and weights[name].shape != shape:
            raise _wrong_shape(weights, config, weights[name], shape)
    _check_names(weights, config, expected)
    for name in expected:
        tensor = weights[name]
        if tensor.dtype not in FLOATS:
            raise WeightsError(
                f'tensor "{name}" has a dtype that a parameter cannot have',
                where=tensor.file or str(weights.path),
                got=tensor.dtype,
                expected=" or ".join(FLOATS),
                hint="save the model as float32, for example after model.float()",
            )
    if config.tie_word_embeddings and "lm_head.weight" in weights:
        _check_tied_head(weights)
    if finite:
        for name in expected:
            check_finite(weights[name])
    return None


def _check_quantised(weights: Weights, config: GPT2Config, scheme: Scheme, finite: bool) -> None:
    said = weights.metadata.get(KEY)
    if said is not None and said != json.dumps(scheme.to_dict()):
        raise WeightsError(
            "the file and config.json differ in how the model is quantised",
            where=str(weights.path),
            got=clip(said, 120),
            expected=json.dumps(scheme.to_dict()),
            source=f'config.json ("{KEY}")',
            likely="the config.json belongs to another model",
        )
    matrices = dict(stored_tensors(expected_shapes(config), scheme))
    expected = {name: part for parts in matrices.values() for name, part in parts.items()}
    for name, part in expected.items():
        if name in weights and weights[name].shape != part.shape:
            raise _wrong_shape(weights, config, weights[name], part.shape)
    _check_names(weights, config, {name: part.shape for name, part in expected.items()})
    for name, part in expected.items():
        _check_dtype(weights[name], part)
    for name, parts in matrices.items():
        if name not in parts:
            check_values(weights, name)
        elif finite:
            check_finite(weights[name])


def _check_dtype(tensor: Tensor, part: Stored) -> None:
    allowed = (part.dtype,) if part.dtype else FLOATS
    if tensor.dtype not in allowed:
        raise WeightsError(
            f'tensor "{tensor.name}" has the wrong dtype',
            where=tensor.file or None,
            got=tensor.dtype,
            expected=" or ".join(allowed),
            source=f'config.json ("{KEY}")',
        )


def drop_tied_head(weights: Weights, config: GPT2Config) -> Weights:
    """`weights` without the copy of wte that some files keep as the head of a tied model."""
    if not config.tie_word_embeddings or "lm_head.weight" not in weights:
        return weights
    return weights.replaced(tensor for name, tensor in weights.items() if name != "lm_head.weight")


def _check_names(weights: Weights, config: GPT2Config, expected: Mapping[str, Shape]) -> None:
    where, source = str(weights.path), f"config.json (n_layer={config.n_layer})"
    missing = [name for name in expected if name not in weights]
    if missing == ["lm_head.weight"]:
        raise WeightsError(
            'tensor "lm_head.weight" is missing',
            where=where,
            got=f"{len(weights)} tensors",
            expected=f"it with shape {list(expected['lm_head.weight'])}",
            source="config.json (tie_word_embeddings=false)",
            likely="the head is tied to wte, and config.json does not say so",
            hint='"tie_word_embeddings": true in config.json',
        )
    if missing:
        raise WeightsError(
            f'tensor "{missing[0]}" is missing' + (f", and {len(missing) - 1} more" if missing[1:] else ""),
            where=where,
            got=_some(weights),
            expected=f"it with shape {list(expected[missing[0]])}",
            source=source,
            likely=_likely(weights, config),
            hint=f"gpt2 inspect {weights.path.name}",
        )
    extra = [name for name in weights if name not in expected]
    if config.tie_word_embeddings and "wte.weight" in expected:
        extra = [name for name in extra if name != "lm_head.weight"]
    if extra:
        raise WeightsError(
            f"tensor {clip(extra[0])} is no part of this model"
            + (f", nor are {len(extra) - 1} more" if extra[1:] else ""),
            where=where,
            got=f"shape {list(weights[extra[0]].shape)}",
            expected=f"{len(expected)} known tensors",
            source=source,
            likely=_likely(weights, config),
            hint=f"gpt2 inspect {weights.path.name}",
        )


def _some(weights: Weights) -> str:
    names = ", ".join(clip(name, 40) for name in list(weights)[:3])
    return (
        f"{len(weights)} tensors: {names}{', ...' if len(weights) > 3 else ''}" if weights else "no tensors"
    )


def _wrong_shape(weights: Weights, config: GPT2Config, tensor: Tensor, expected: Shape) -> WeightsError:
    sizes = ("n_embd", "n_positions", "vocab_size", "n_inner")
    dims = {"wte.weight": (2, 0), "wpe.weight": (1, 0), "lm_head.weight": (2, 0)}.get(tensor.name, (0,))
    fields = [sizes[i] for i in dims] + (["n_inner"] if ".mlp." in tensor.name else [])
    likely, hint = _likely(weights, config), f"gpt2 inspect {weights.path.name}"
    if len(expected) == 2 and tensor.shape == expected[::-1] and _MATRIX.fullmatch(tensor.name):
        likely = "the file stores its matrices as [out, in], as PyTorch's Linear and nanoGPT do"
        hint = 'open_weights(..., layout="linear")'
    return WeightsError(
        f'tensor "{tensor.name}" has the wrong shape',
        where=tensor.file or str(weights.path),
        got=str(list(tensor.shape)),
        expected=str(list(expected)),
        source="config.json (" + ", ".join(f"{name}={getattr(config, name)}" for name in fields) + ")",
        likely=likely,
        hint=hint,
    )


def _likely(weights: Weights, config: GPT2Config) -> str | None:
    """ "the file looks like gpt2 (124M), the config like gpt2-medium (355M)", where either is a known
    size."""
    wte, blocks = weights.get("wte.weight"), _count_blocks(weights)
    packed, asked = any(name.endswith(SUFFIXES) for name in weights), config.extra.get(KEY) is not None
    if packed != asked:
        kind = "quantised" if packed else "floating point"
        says = "says how" if asked else f'has no "{KEY}"'
        return f"the tensors are {kind}, and config.json {says}"
    if packed:
        return None
    if wte is None or wte.array.ndim != 2:
        return "the file does not look like a GPT-2: it has no wte.weight"
    file, ours = known_size(wte.shape[1], blocks), known_size(config.n_embd, config.n_layer)
    if file == ours:
        return None
    of_file = _named(file) if file else f"a model of width {wte.shape[1]} with {blocks} blocks"
    of_config = _named(ours) if ours else f"one of width {config.n_embd} with {config.n_layer}"
    return f"the file looks like {of_file}, the config like {of_config}"


def _named(size: str) -> str:
    millions = KNOWN_SIZES[size].n_params / 1e6
    return f"{size} ({millions / 1000:.1f}B)" if millions >= 1000 else f"{size} ({millions:.0f}M)"


def _count_blocks(names: Iterable[str]) -> int:
    """Distinct block numbers among the names."""
    return len({match[1] for match in map(_BLOCK.match, names) if match})


def _check_tied_head(weights: Weights) -> None:
    """A head beside a tied wte must be its copy; compared in pieces, since both may be 150 MB."""
    head, wte = weights["lm_head.weight"], weights["wte.weight"]
    if head.shape == wte.shape and head.dtype == wte.dtype:
        if head.array.__array_interface__["data"] == wte.array.__array_interface__["data"]:
            return
        bits = np.dtype(f"u{head.array.itemsize}")
        step = max(1, (1 << 22) // max(1, head.nbytes // max(1, head.shape[0])))
        rows = range(0, head.shape[0], step)
        if all(
            np.array_equal(head.array[i : i + step].view(bits), wte.array[i : i + step].view(bits))
            for i in rows
        ):
            return
    raise WeightsError(
        'tensor "lm_head.weight" differs from "wte.weight"',
        where=head.file or str(weights.path),
        got=f"{head.dtype} {list(head.shape)}",
        expected="the same bytes",
        source="config.json (tie_word_embeddings=true)",
        likely="the head was trained apart, and config.json does not say so",
        hint='"tie_word_embeddings": false in config.json',
    )


def check_finite(tensor: Tensor) -> None:
    """Read every element and raise WeightsError for the first that is not a number or infinite."""
    if tensor.dtype == "bfloat16":
        bad = (tensor.array & np.uint16(0x7F80)) == np.uint16(0x7F80)
    else:
        bad = ~np.isfinite(tensor.array)
    if bad.any():
        at = [int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape)]
        raise WeightsError(
            f'tensor "{tensor.name}" has a value that is not finite',
            where=tensor.file or None,
            got=f"index {at}",
        )


@dataclass(frozen=True, slots=True)
class InferredConfig:
    """A config guessed from the tensors alone, and what was guessed rather than read."""

    config: GPT2Config
    notes: tuple[str, ...]


def infer_config(weights: Weights) -> InferredConfig:
    """The config of a checkpoint that comes without config.json. Raises WeightsError where the shapes do not
    tell.

    V, T, C, I, L and tying are read off the shapes. The number of heads leaves no trace there: it is that of
    the released model of the same width, otherwise C / 64, the head size of every released model. The
    activation and the other fields are the defaults. `notes` says all of this.
    """
    shapes = {name: weights[name].shape for name in weights}
    needed = ("wte.weight", "wpe.weight", "h.0.mlp.c_fc.weight")
    if not all(len(shapes.get(name, ())) == 2 for name in needed):
        raise WeightsError(
            "the tensors do not tell the model's sizes",
            where=str(weights.path),
            got=_some(weights),
            expected=", ".join(needed),
            hint="put the model's config.json beside the file",
        )
    (vocab, width), positions, blocks = shapes["wte.weight"], shapes["wpe.weight"][0], _count_blocks(weights)
    first, second = shapes["h.0.mlp.c_fc.weight"]
    inner = second if first == width else first  # [C, I], or [I, C] in the other layout
    size = known_size(width)
    if size is None and width % 64:
        raise WeightsError(
            "the number of heads cannot be guessed",
            where=str(weights.path),
            got=f"n_embd={width}",
            expected="a multiple of 64",
            hint="put the model's config.json beside the file",
        )
    heads = KNOWN_SIZES[size].n_head if size else width // 64
    why = f"that of {size}" if size else "n_embd / 64, the head size of the released models"
    try:
        config = GPT2Config(
            vocab_size=vocab,
            n_positions=positions,
            n_embd=width,
            n_layer=blocks,
            n_head=heads,
            n_inner=None if inner == 4 * width else inner,
            tie_word_embeddings=_looks_tied(weights),
        )
    except ConfigError as error:
        raise WeightsError(
            f"the tensors make no possible model: {error.what}",
            where=str(weights.path),
            got=error.got,
            expected=error.expected,
        ) from None
    notes = (
        "there is no config.json: the sizes are read off the tensors' shapes",
        f"n_head={heads} is a guess: {why}",
        f"activation_function={config.activation_function} and the other fields are the defaults",
    )
    return InferredConfig(config, notes)


def _looks_tied(weights: Weights) -> bool:
    if "lm_head.weight" not in weights:
        return True
    try:
        _check_tied_head(weights)
    except WeightsError:
        return False
    return True
