"""What a run starts from: its model, its vocabulary, its tokens on the disk, and how they are cut into steps.

Everything that the settings leave open is decided here, so that the settings that are printed, saved and
compared on resume are whole. Needs PyTorch. Knows no loop.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from gpt2.config import GPT2Config
from gpt2.errors import InvalidRequest
from gpt2.model import GPT2, load_model
from gpt2.tokenizer import Tokenizer
from gpt2.train.data import Batches, Split, Tokens
from gpt2.train.data.packing import Packing
from gpt2.train.settings import Settings, default_rate
from gpt2.train.world import World
from gpt2.weights import fingerprint
from gpt2.weights.hub import resolve

END_OF_TEXT = "<|endoftext|>"
TOKENS_AT_ONCE = {"cpu": 2048, "cuda": 16384}
"""Of a micro-batch, where nothing is said: on a CPU a 124M model takes seconds for so many, and a signal
waits for the end of one."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Start:
    """A model on its way, and where it came from."""

    model: GPT2
    origin: Path
    """The directory of the vocabulary, and for a tuned model of its weights."""
    name: str
    """Of the origin, as a card says it: no path of a machine."""
    tokenizer: Tokenizer
    identity: dict[str, str]
    """What a resumed run must find unchanged: hashes of the vocabulary and of the weights."""


def open_start(settings: Settings) -> Start:
    """Load, or make, the model of a run. Raises what loading raises."""
    origin = Path(resolve(settings.model))
    name = settings.model or "demo"
    name = Path(name).resolve().name if os.path.exists(name) else name
    tokenizer = Tokenizer.load(origin)
    identity = {"vocabulary": tokenizer.hash}
    if settings.recipe == "pretrain":
        torch.manual_seed(settings.seed)
        model = GPT2(fresh_config(settings, tokenizer))
        if settings.zero_residual:
            zero_residual(model)
    else:
        model = load_model(origin)
        identity["weights"] = fingerprint(_weights_of(origin)).whole
    if settings.dropout is not None:
        set_dropout(model, settings.dropout)
    if settings.recipe == "lora":
        adapted(model, settings)
    return Start(model, origin if origin.is_dir() else origin.parent, name, tokenizer, identity)


def adapted(model: GPT2, settings: Settings) -> None:
    """Freeze the model and give it adapters, drawn from the run's seed."""
    from gpt2.train.lora import adapt

    adapt(
        model, rank=settings.lora_rank, alpha=settings.lora_alpha, dropout=settings.lora_dropout,
        targets=settings.lora_targets, dora=settings.dora,
        generator=torch.Generator().manual_seed(settings.seed),
    )  # fmt: skip


def _weights_of(origin: Path) -> Path:
    file = origin / "model.safetensors"
    return file if file.is_file() else origin


def fresh_config(settings: Settings, tokenizer: Tokenizer) -> GPT2Config:
    """The shape of a model that is trained from nothing, for a vocabulary."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    dropout = settings.dropout or 0.0
    return GPT2Config(
        vocab_size=len(tokenizer), n_positions=settings.n_positions, n_embd=settings.n_embd,
        n_layer=settings.n_layer, n_head=settings.n_head, bos_token_id=end, eos_token_id=end,
        embd_pdrop=dropout, attn_pdrop=dropout, resid_pdrop=dropout,
    )  # fmt: skip


@torch.no_grad()
def zero_residual(model: GPT2) -> None:
    """Begin every block as the identity: both c_proj give 0 (Zhang et al. 2019, arXiv:1901.09321)."""
    for block in model.h:
        block.attn.c_proj.weight.zero_()
        block.mlp.c_proj.weight.zero_()


def set_dropout(model: GPT2, share: float) -> None:
    """The dropout of embeddings, attention and residual stream, whatever the config says."""
    model.config = dataclasses.replace(model.config, embd_pdrop=share, attn_pdrop=share, resid_pdrop=share)
    for block in model.h:
        block.dropout = block.attn.dropout = share


def open_data(settings: Settings, start: Start, run: Path, world: World, say: Say) -> Tokens:
    """The tokens of a run: a folder that is prepared, or the sources, prepared into the run's own folder by
    the first process. Raises DataError."""
    sources = [Path(source) for source in settings.data]
    if len(sources) == 1 and (sources[0] / "index.json").is_file():
        tokens = Tokens(sources[0])
    else:
        problem = None
        if world.first:
            try:
                prepare_sources(settings, start, run / "data", say)
            except Exception as error:
                problem = error
        world.agree(None if problem is None else str(problem))
        if problem is not None:
            raise problem
        tokens = Tokens(run / "data")
    tokens.check_tokenizer(start.tokenizer.hash)
    return tokens


def prepare_sources(settings: Settings, start: Start, folder: Path, say: Say) -> None:
    """Tokenise into `folder`; where that is done already, for the same sources, nothing is done."""
    from gpt2.train.data import Preparation, prepare

    if not (folder / "index.json").is_file():
        say(f"tokenising {', '.join(settings.data)}")
    names = ("text_column", "prompt_column", "completion_column", "separator", "validation", "seed")
    how = Preparation(**{name: getattr(settings, name) for name in names})
    prepare(list(settings.data), start.tokenizer, folder, how)


def settled(settings: Settings, start: Start, tokens: Tokens, world: World) -> Settings:
    """The settings with nothing left open."""
    positions = start.model.config.n_positions
    window = settings.window or positions
    if window > positions:
        raise InvalidRequest(
            "window", got=window, expected=f"at most {positions}", source="the model's n_positions"
        )
    batch = settings.batch or default_batch(
        Batches(tokens.split("train"), window=window, batch=1).windows, world
    )
    if batch % world.ranks:
        raise InvalidRequest("batch", got=batch, expected=f"a multiple of {world.ranks} processes")
    mine = batch // world.ranks
    micro = settings.micro_batch
    if micro is None:
        room = max(1, TOKENS_AT_ONCE[world.device.type] // window)
        micro = max(d for d in range(1, mine + 1) if mine % d == 0 and d <= room)
    if mine % micro:
        raise InvalidRequest("micro_batch", got=micro, expected=f"a divisor of batch / processes = {mine}")
    return settings.replace(
        window=window, batch=batch, micro_batch=micro,
        lr=default_rate(settings.recipe, start.model.config.n_embd) if settings.lr is None else settings.lr,
        threads=settings.threads or torch.get_num_threads(),
    )  # fmt: skip


def default_batch(windows: int, world: World) -> int:
    """8 sequences, or so many that an epoch has 16 steps: few large steps learn little from little text."""
    return max(world.ranks, min(8, windows // 16) // world.ranks * world.ranks)


def batches_of(settings: Settings, tokens: Tokens, world: World) -> tuple[Batches, Batches | None]:
    """What is trained on, and what is held out (None where nothing is)."""
    window = settings.window or 0
    batch = settings.batch or world.ranks
    micro = settings.micro_batch or batch // world.ranks

    def made(split: Split, packing: str, accumulation: int) -> Batches:
        return Batches(
            split, window=window, batch=micro, seed=settings.seed, packing=cast(Packing, packing),
            accumulation=accumulation, rank=world.rank, ranks=world.ranks,
        )  # fmt: skip

    train = made(tokens.split("train"), settings.packing, batch // (micro * world.ranks))
    held_out = tokens.split("validation")
    if not held_out.tokens:
        return train, None
    return train, made(held_out, "documents" if held_out.tokens < window else settings.packing, 1)


def identity_of(start: Start, tokens: Tokens) -> dict[str, str]:
    """Hashes that a resumed run must find unchanged."""
    facts = {key: tokens.index.get(key) for key in ("shards", "tokenizer")}
    text = json.dumps(facts, sort_keys=True, default=str)
    return {**start.identity, "data": hashlib.sha256(text.encode()).hexdigest()}
