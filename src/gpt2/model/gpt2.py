"""GPT-2 in PyTorch, to be read from top to bottom.

The whole model is four classes: `Linear`, `Attention` and `MLP` make a `Block`, and `GPT2` is an embedding, L
blocks and a head. Nothing is fused, nothing is cached; how to compute it fast is the engine's business
(native/model), and a test holds the two together. Source: Radford et al. 2019, "Language Models are
Unsupervised Multitask Learners"; the shapes and names of the parameters are those of the released files
(gpt2.weights.names), so that `state_dict()` is the file.

    B  texts in a batch       C  n_embd, the width of the residual stream      V  vocab_size
    T  tokens of a text       H  heads,  D = C / H                             L  n_layer
    I  n_inner = 4 C

What is computed can be looked at and changed on the way: `forward(ids, hook=f)` calls `x = f(name, x)` at
every point that has a name. The names are those of TransformerLens:

    hook_embed, hook_pos_embed                               [B, T, C]
    blocks.{i}.hook_resid_pre, hook_resid_mid, hook_resid_post, hook_attn_out, hook_mlp_out   [B, T, C]
    blocks.{i}.ln1.hook_scale, ln2.hook_scale                [B, T, 1]   standard deviation
    blocks.{i}.ln1.hook_normalized, ln2.hook_normalized      [B, T, C]   before gain and bias
    blocks.{i}.attn.hook_q, hook_k, hook_v, hook_z           [B, T, H, D]
    blocks.{i}.attn.hook_attn_scores, hook_pattern           [B, H, T, T]   before and after softmax
    blocks.{i}.mlp.hook_pre, hook_post                       [B, T, I]   before and after the activation
    ln_final.hook_scale, ln_final.hook_normalized            [B, T, 1], [B, T, C]

It knows nothing of text, files, optimisers or losses.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from gpt2.config import GPT2Config
from gpt2.errors import InvalidRequest
from gpt2.model.attention import attention, faster_in_blocks

Hook: TypeAlias = Callable[[str, Tensor], Tensor]
"""(name of the point, its value) -> the value to go on with."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    # by the names of GPT2Config.activation
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu": functional.gelu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": functional.relu,
    "silu": functional.silu,
    "tanh": torch.tanh,
}


def untouched(name: str, x: Tensor) -> Tensor:
    """The hook that does nothing."""
    return x


def within(part: str, hook: Hook | None) -> Hook | None:
    """The hook as a part of the model sees it, which does not know its own name: so all blocks run the same
    code, and whoever compiles one of them has compiled them all."""
    return None if hook is None else lambda name, x: hook(f"{part}.{name}", x)


class Linear(nn.Module):
    """y = x W + b. The released files store W as [in, out]; PyTorch's own Linear stores it transposed."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])  # [B T, in]
        y = torch.addmm(self.bias, rows, self.weight)  # [B T, out]
        return y.view(*x.shape[:-1], -1)


class LayerNorm(nn.LayerNorm):
    """(x - mean) / sqrt(variance + epsilon) * gain + bias, over C (Ba et al. 2016, arXiv:1607.06450)."""

    def forward(self, x: Tensor, hook: Hook | None = None) -> Tensor:
        if hook is None:
            return super().forward(x)
        # The same in single steps, where somebody looks at them.
        centred = x - x.mean(-1, keepdim=True)  # [B, T, C]
        variance = centred.pow(2).mean(-1, keepdim=True)  # [B, T, 1]
        scale = hook("hook_scale", (variance + self.eps).sqrt())
        return hook("hook_normalized", centred / scale) * self.weight + self.bias


class Attention(nn.Module):
    """Each position looks at itself and at those before it, with H heads (Vaswani et al. 2017,
    arXiv:1706.03762)."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        c = config.n_embd
        self.heads, self.head_dim = config.n_head, config.head_dim
        self.c_attn = Linear(c, 3 * c)  # columns: queries, keys, values of all heads
        self.c_proj = Linear(c, c)
        self.dropout = config.attn_pdrop
        self.scale = self.head_dim**-0.5 if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= layer + 1
        self.upcast = config.reorder_and_upcast_attn

    def forward(self, x: Tensor, allowed: Tensor | None, hook: Hook | None) -> Tensor:
        b, t, c = x.shape
        q, k, v = (
            part.view(b, t, self.heads, self.head_dim)  # [B, T, H, D]
            for part in self.c_attn(x).split(c, dim=-1)
        )
        if hook is None and not self.upcast:
            q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # [B, H, T, D]
            dropout = self.dropout if self.training else 0.0
            if torch.compiler.is_compiling() and faster_in_blocks(q, dropout):
                z = attention(q, k, v, allowed, self.scale)
            else:
                z = functional.scaled_dot_product_attention(
                    q, k, v, attn_mask=allowed, dropout_p=dropout, is_causal=allowed is None, scale=self.scale
                )
            z = z.transpose(1, 2)  # [B, T, H, D]
        else:
            z = self.attend(q, k, v, allowed, hook or untouched)
        return self.c_proj(z.reshape(b, t, c))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, hook: Hook) -> Tensor:
        """What scaled_dot_product_attention computes, step by step. q, k, v and the result: [B, T, H, D]."""
        t = q.shape[1]
        q, k, v = (hook(f"hook_{letter}", part) for letter, part in (("q", q), ("k", k), ("v", v)))
        if self.upcast:  # scores and softmax in float32 even where the rest is in 16 bits
            q, k = q.float(), k.float()
        scores = torch.einsum("bqhd,bkhd->bhqk", q * self.scale, k)  # [B, H, T, T]
        if allowed is None:
            allowed = torch.ones(t, t, dtype=torch.bool, device=q.device).tril()
        scores = hook("hook_attn_scores", scores.masked_fill(~allowed, -math.inf))
        pattern = hook("hook_pattern", scores.softmax(-1)).to(v.dtype)
        pattern = functional.dropout(pattern, self.dropout, self.training)
        return hook("hook_z", torch.einsum("bhqk,bkhd->bqhd", pattern, v))


class MLP(nn.Module):
    """Two layers with an activation between them, at each position alone."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.c_fc = Linear(config.n_embd, config.inner)
        self.c_proj = Linear(config.inner, config.n_embd)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor, hook: Hook | None) -> Tensor:
        hook = hook or untouched
        pre = hook("hook_pre", self.c_fc(x))  # [B, T, I]
        post = hook("hook_post", self.activation(pre))
        return self.c_proj(post)


class Block(nn.Module):
    """x += attention(LN(x)); x += MLP(LN(x))."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = Attention(config, layer)
        self.ln_2 = LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)
        self.dropout = config.resid_pdrop

    def forward(self, x: Tensor, allowed: Tensor | None = None, hook: Hook | None = None) -> Tensor:
        tap = hook or untouched
        x = tap("hook_resid_pre", x)  # [B, T, C]
        out = self.attn(self.ln_1(x, within("ln1", hook)), allowed, within("attn", hook))
        out = functional.dropout(out, self.dropout, self.training)
        x = tap("hook_resid_mid", x + tap("hook_attn_out", out))
        out = self.mlp(self.ln_2(x, within("ln2", hook)), within("mlp", hook))
        out = functional.dropout(out, self.dropout, self.training)
        return tap("hook_resid_post", x + tap("hook_mlp_out", out))


class GPT2(nn.Module):
    """The language model: ids [B, T] -> logits [B, T, V].

        model = GPT2(GPT2Config(n_layer=2, n_embd=64, n_head=4))
        logits = model(ids)

    Fresh parameters are drawn as OpenAI's were: normal with deviation `initializer_range`, those that write
    to the residual stream divided by sqrt(2 L), so that its variance does not grow with depth; biases 0.
    """

    def __init__(self, config: GPT2Config, *, fresh: bool = True) -> None:
        """fresh=False leaves the parameters unset, for weights that are copied in afterwards."""
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(Block(config, i) for i in range(config.n_layer))
        self.ln_f = LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.lm_head: nn.Linear | None = None  # tied: the head is wte
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.activation_checkpointing = False
        """Keep only the inputs of blocks for the backward pass and compute the rest again: memory of one
        block instead of L, for a third more time (Chen et al. 2016, arXiv:1604.06174)."""
        if fresh:
            self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        deviation = self.config.initializer_range
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):
                parameter.normal_(0.0, deviation / math.sqrt(2 * self.config.n_layer))
            elif parameter.ndim == 2:
                parameter.normal_(0.0, deviation)
            else:
                parameter.fill_(1.0 if ".ln_" in f".{name}" and name.endswith("weight") else 0.0)

    @property
    def head(self) -> Tensor:
        """The matrix [V, C] that turns final hidden states into logits."""
        return self.wte.weight if self.lm_head is None else self.lm_head.weight

    def forward(
        self,
        ids: Tensor,
        *,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        hook: Hook | None = None,
    ) -> Tensor:
        """Logits [B, T, V] after each of ids [B, T]. Arguments as for hidden()."""
        hidden = self.hidden(ids, positions=positions, documents=documents, hook=hook)
        return functional.linear(hidden, self.head)

    def hidden(
        self,
        ids: Tensor,
        *,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        hook: Hook | None = None,
        between: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Final hidden states [B, T, C], after ln_f: what the head reads.

        Args:
            ids: [B, T] int64, T at most n_positions.
            positions: [B, T] int64 or None; None counts from 0 in each row.
            documents: [B, T] or None; with it a position looks only at those of its row with the same number,
                so that documents that are packed into one row do not see each other.
            hook: see the head of the file.
            between: x = between(x) before each block, on the way that nobody looks at (hook is None).

        Raises InvalidRequest for more tokens than positions.
        """
        t = ids.shape[1]
        if t > self.config.n_positions:
            raise InvalidRequest("ids", got=f"{t} tokens", expected=f"at most {self.config.n_positions}")
        if positions is None:
            positions = torch.arange(t, device=ids.device)
        tap = hook or untouched
        x = tap("hook_embed", self.wte(ids)) + tap("hook_pos_embed", self.wpe(positions))  # [B, T, C]
        x = functional.dropout(x, self.config.embd_pdrop, self.training)
        allowed = None if documents is None else same_document(documents)
        for i, block in enumerate(self.h):
            x = x if between is None else between(x)
            if self.activation_checkpointing and self.training and hook is None:
                x = checkpoint(block, x, allowed, use_reentrant=False)
            else:
                x = block(x, allowed, within(f"blocks.{i}", hook))
        return self.ln_f(x, within("ln_final", hook))


def same_document(documents: Tensor) -> Tensor:
    """documents [B, T] -> [B, 1, T, T]: query t may look at key s where s <= t and both are of one
    document."""
    t = documents.shape[1]
    same = documents[:, None, :, None] == documents[:, None, None, :]
    return same & torch.ones(t, t, dtype=torch.bool, device=documents.device).tril()
