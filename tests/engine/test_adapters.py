"""Adapters in the engine: PEFT's logits, the merged weights' logits, and the same bits in any company."""

from __future__ import annotations

import asyncio
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpt2
from adapters import changed_weight, peft_model, random_adapter, saved_peft
from checkpoints import assert_close, exact_outputs, logit_error_bound, random_gpt2, saved
from gpt2 import _native, errors
from gpt2.config import GPT2Config
from gpt2.weights import open_weights, save_safetensors
from gpt2.weights.adapters import LINEARS, Adapter, LowRank, linear_shapes, save_adapter
from machine import exact_isa, isas

SHAPE: dict[str, Any] = {"n_embd": 44, "n_head": 4, "n_layer": 2, "n_positions": 140, "vocab_size": 151}
CONFIG = GPT2Config(**SHAPE)
IDS = np.random.default_rng(1).integers(0, 151, 100).astype(np.int32)

ADAPTERS = {
    "attention": random_adapter(CONFIG, 1, rank=4, targets=("attn.c_attn",)),
    "everything": random_adapter(CONFIG, 2, rank=17),
    "dora": random_adapter(CONFIG, 3, rank=3, dora=True),
    "mlp": random_adapter(CONFIG, 4, rank=1, targets=("mlp.c_fc", "mlp.c_proj"), dora=True, rslora=True),
}


@pytest.fixture(scope="module")
def base() -> Any:
    return random_gpt2(**SHAPE, initializer_range=0.3)


@pytest.fixture(scope="module")
def folder(base: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(base, tmp_path_factory.mktemp("base"))


class Models(dict[tuple[str, str, str, int], gpt2.LanguageModel]):
    """A model with all adapters, of each instruction set, weights, cache and number of threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __missing__(self, key: tuple[str, str, str, int]) -> gpt2.LanguageModel:
        isa, weights, cache, threads = key
        how: Any = {"isa": isa, "weights": weights, "cache": cache, "threads": threads}
        self[key] = lm = gpt2.load(self.folder, **how)
        for name, adapter in ADAPTERS.items():
            lm.load_adapter(adapter, name)
        return lm


@pytest.fixture(scope="module")
def models(folder: Path) -> Models:
    return Models(folder)


@pytest.fixture
def lm(folder: Path) -> gpt2.LanguageModel:
    return gpt2.load(folder, threads=1)


@pytest.mark.parametrize(
    "how",
    [
        {"target_modules": ["c_attn"], "r": 4},
        {"target_modules": ["c_attn", "c_proj", "c_fc"], "use_rslora": True},
        {"target_modules": ["c_attn", "c_proj", "c_fc"], "use_dora": True, "r": 5},
    ],
    ids=["attention", "all", "dora"],
)
def test_logits_are_pefts(how: dict[str, Any], folder: Path, tmp_path: Path, isa: str) -> None:
    theirs = peft_model(random_gpt2(**SHAPE, initializer_range=0.3), 7, **how)
    lm = gpt2.load(folder, isa=isa, threads=1)
    info = lm.load_adapter(saved_peft(theirs, tmp_path / "pirate"))
    assert (info.name, info.dora, lm.adapters) == ("pirate", "use_dora" in how, {"pirate": info})
    exact, hidden = exact_outputs(theirs, IDS)
    scale = float(np.abs(exact).max())
    bound = logit_error_bound(CONFIG, IDS.size, scale)
    assert_close(lm.logits(IDS, adapter="pirate"), exact, bound, "TV", isa)
    states = lm.hidden_states(IDS, adapter="pirate")
    assert_close(states, hidden, 1e-4 * float(np.abs(hidden).max()), "LTC", isa)
    assert np.abs(lm.logits(IDS) - exact).max() > 100 * bound  # without it they are others


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_merged_weights_have_the_same_logits(
    name: str, weights: str, folder: Path, models: Models, tmp_path: Path
) -> None:
    """float32 sums of the same numbers: W as bfloat16 has it; A and B are never rounded."""
    lm = models[exact_isa(), weights, "float32", 2]
    tensors = open_weights(folder, CONFIG)
    out = {n: np.array(t.array) for n, t in tensors.items()}
    if weights == "bfloat16":
        for n, array in out.items():
            if array.ndim == 2:
                bits = _native.narrow_bfloat16(np.ascontiguousarray(array).reshape(-1))
                out[n] = _native.widen_bfloat16(bits).reshape(array.shape)
    for module, change in ADAPTERS[name].modules.items():
        out[f"{module}.weight"] = changed_weight(out[f"{module}.weight"], change).astype(np.float32)
    merged = tmp_path / "merged"
    shutil.copytree(folder, merged)
    save_safetensors(merged / "model.safetensors", out)
    expected = gpt2.load(merged, threads=1).logits(IDS)
    bound = 2 * logit_error_bound(CONFIG, IDS.size, float(np.abs(expected).max()))
    assert_close(lm.logits(IDS, adapter=name), expected, bound, "TV")


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8", "int4"])
def test_doras_lengths_are_those_of_the_weights_that_are_used(
    weights: str, folder: Path, tmp_path: Path
) -> None:
    """With magnitudes that are the lengths of the columns already, DoRA is LoRA; the columns are those that
    the rounded matrices stand for."""
    from gpt2.engine.tensors import native_tensors
    from gpt2.quant import Scheme, dequantise, quantise

    opened = open_weights(folder, CONFIG)
    if weights in ("int8", "int4"):
        scheme = Scheme(method=weights)  # type: ignore[arg-type]
        rounded = {t.name: t for t in quantise(opened, CONFIG, scheme)}
        config = GPT2Config(**SHAPE, extra={"quantization": scheme.to_dict()})
        matrices = {t.name: t.to_float32() for t in dequantise(rounded, config)}
    else:
        arrays, _ = native_tensors(opened, CONFIG, weights)  # type: ignore[arg-type]
        matrices = {
            n: a if a.dtype == np.float32 else _native.widen_bfloat16(a.reshape(-1)).reshape(a.shape)
            for n, a in arrays.items()
        }
    plain = ADAPTERS["everything"]
    modules = {
        name: LowRank(
            a=m.a, b=m.b, alpha=m.alpha,
            magnitude=np.linalg.norm(changed_weight(matrices[f"{name}.weight"], m), axis=0).astype("<f4"),
        )
        for name, m in plain.modules.items()
    }  # fmt: skip
    lm = gpt2.load(folder, weights=weights, cache="float32", threads=1)  # type: ignore[arg-type]
    lm.load_adapter(plain, "lora")
    lm.load_adapter(Adapter(modules=modules), "dora")
    lora, dora = lm.logits(IDS[:12], adapter="lora"), lm.logits(IDS[:12], adapter="dora")
    size = float(np.abs(lora).max())
    # A gain is 1 to rounding. With int8 activations such a difference may move one over the border between
    # two integers (tests/engine/test_quantised.py); one of other columns would be much larger.
    assert np.abs(lora - dora).max() < (1e-4 if weights in ("float32", "bfloat16") else 0.02) * size
    assert not np.array_equal(lora, lm.logits(IDS[:12]))


names = st.sampled_from([None, *ADAPTERS])
WIDTHS = [("float32", "float32"), ("bfloat16", "int8"), ("int8", "int8"), ("int4", "bfloat16")]
kinds = st.sampled_from([(isa, *widths) for isa in isas() for widths in WIDTHS])
lengths = st.one_of(st.sampled_from([1, 5, 63, 64, 65, 127, 128, 129]), st.integers(1, 130))
requests = st.tuples(
    st.builds(
        lambda n, seed: np.random.default_rng(seed).integers(0, 151, n).tolist(), lengths, st.integers(0, 2)
    ),
    names,
    st.sampled_from(["draw", "two", "beams", "guided", "guessed"]),
)
OPTIONS: dict[str, dict[str, Any]] = {
    "draw": {"temperature": 0.9},
    "two": {"n": 2, "temperature": 1.2},
    "beams": {"num_beams": 3},
    "guided": {"guidance_scale": 1.5, "temperature": 0.0},
    "guessed": {"prompt_lookup_num_tokens": 3, "temperature": 0.7},
}


@given(st.lists(requests, min_size=2, max_size=7), kinds, st.sampled_from([1, 2, 3]))
@settings(max_examples=15)
def test_adapters_in_one_batch_never_change_an_answer(
    models: Models, mix: list[Any], kind: tuple[str, str, str], threads: int
) -> None:
    """Each request gets the tokens and log-probabilities, to the bit, that it gets alone on one thread."""
    alone, lm = models[(*kind, 1)], models[(*kind, threads)]

    def ask(model: gpt2.LanguageModel, request: Any) -> Any:
        ids, name, how = request
        options = OPTIONS[how] | {"seed": 3, "max_new_tokens": 4, "logprobs": 2, "ignore_eos": True}
        return model.agenerate(ids, adapter=name, overflow="slide", **options)

    async def together() -> list[Any]:
        return await asyncio.gather(*(ask(lm, request) for request in mix))

    expected = [asyncio.run(ask(alone, request)) for request in mix]
    assert asyncio.run(together()) == expected


@given(requests, kinds, st.data())
@settings(max_examples=15)
def test_cached_equals_full(models: Models, request: Any, kind: tuple[str, str, str], data: Any) -> None:
    ids, name, _ = request
    lm = models[(*kind, 2)]
    full = lm.logits(ids, adapter=name)
    cut = data.draw(st.integers(1, len(ids)))
    assert np.array_equal(lm.logits(ids[:cut], adapter=name), full[:cut])
    assert np.array_equal(models[(*kind, 1)].logits(ids, adapter=name), full)
    if len(ids) < 135:
        done = lm.generate(ids, adapter=name, seed=1, max_new_tokens=4, logprobs=0, ignore_eos=True)
        assert isinstance(done, gpt2.Completion)
        everything = np.asarray([*ids, *done.tokens], dtype=np.int32)
        native = lm._native.score(everything, lm._adapters.get(name))
        assert list(done.logprobs or ()) == native[len(ids) - 1 :].tolist()


def test_every_call_takes_an_adapter(models: Models) -> None:
    """What each of them gives is what the logits with the adapter say, and not those without."""
    lm = models["auto", "float32", "float32", 1]
    ids = IDS[:70].tolist()
    logits = lm.logits(ids, adapter="dora").astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    best = int(logits[-1].argmax())
    assert best != lm.logits(ids)[-1].argmax()
    assert lm.next_tokens(ids, 1, adapter="dora")[0].id == best
    greedy: dict[str, Any] = {"adapter": "dora", "temperature": 0.0, "max_new_tokens": 1}
    done = lm.generate(ids, **greedy)
    assert isinstance(done, gpt2.Completion)
    assert done.tokens == (best,)
    assert [t for chunk in lm.stream(ids, **greedy) for t in chunk.tokens] == [best]
    assert lm.generate([ids], **greedy)[0].tokens == (best,)  # type: ignore[index]
    assert lm.generate(ids, num_beams=1, penalty_alpha=0.6, top_k=4, **greedy).tokens[0] in range(151)  # type: ignore[union-attr]
    score = lm.score(ids, adapter="dora")
    np.testing.assert_allclose(score.logprobs[1:], _chosen(lm, ids, "dora"), rtol=0, atol=1e-5)
    assert score.total != lm.score(ids).total
    states = lm.hidden_states(ids, adapter="dora")
    np.testing.assert_array_equal(lm.embed([ids], pooling="last", adapter="dora")[0], states[-1, -1])
    session = lm.session(adapter="dora", seed=1)
    session.append(ids)
    assert session.branch().generate(temperature=0.0, max_new_tokens=1).tokens == (best,)
    assert logprobs[-1, best] == pytest.approx(lm.next_tokens(ids, 1, adapter="dora")[0].logprob)


def _chosen(lm: gpt2.LanguageModel, ids: list[int], adapter: str) -> Any:
    """log p of ids[1:], after the start token."""
    start = lm.config.eos_token_id
    assert isinstance(start, int)
    logits = lm.logits([start, *ids[:-1]], adapter=adapter).astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return logprobs[np.arange(1, len(ids)), ids[1:]]


def test_guesses_change_nothing_of_an_adapted_text(models: Models, folder: Path) -> None:
    lm, guesser = models["auto", "float32", "float32", 2], gpt2.load(folder, threads=1)
    options: dict[str, Any] = {"seed": 5, "max_new_tokens": 20, "ignore_eos": True, "adapter": "everything"}
    expected = lm.generate(IDS[:30], **options)
    assert lm.generate(IDS[:30], assistant_model=guesser, **options) == expected
    assert lm.generate(IDS[:30], prompt_lookup_num_tokens=4, **options) == expected


def test_names_come_and_go(lm: gpt2.LanguageModel, tmp_path: Path) -> None:
    first, second = ADAPTERS["attention"], ADAPTERS["dora"]
    path = save_adapter(tmp_path / "pirate", first, CONFIG)
    lm.load_adapter(path)
    lm.load_adapter(second, "poet")
    assert list(lm.adapters) == ["pirate", "poet"]
    info = lm.adapters["pirate"]
    assert (info.rank, info.targets, info.dora, info.path) == (4, ("attn.c_attn",), False, path)
    assert info.bytes >= 4 * info.n_params == 4 * first.n_params
    pirate = lm.logits(IDS, adapter="pirate")
    with pytest.raises(errors.InvalidRequest, match="loaded already"):
        lm.load_adapter(path)
    for call in (
        lm.unload_adapter,
        lambda name: lm.generate("x", adapter=name),
        lambda name: lm.session(adapter=name),
    ):
        with pytest.raises(errors.InvalidRequest, match="did you mean 'pirate'"):
            call("pirat")
    lm.unload_adapter("pirate")
    with pytest.raises(errors.InvalidRequest, match="no adapter of this name"):
        lm.logits(IDS, adapter="pirate")
    lm.load_adapter(second, "pirate")  # the name is free for another
    assert np.array_equal(lm.logits(IDS, adapter="pirate"), lm.logits(IDS, adapter="poet"))
    lm.unload_adapter("pirate")
    lm.load_adapter(path, "pirate")
    assert np.array_equal(lm.logits(IDS, adapter="pirate"), pirate)
    for name in ("", "a\nb", "x" * 300, 7):
        with pytest.raises(errors.InvalidRequest, match="name"):
            lm.load_adapter(path, name)  # type: ignore[arg-type]


def test_a_request_keeps_its_adapter_and_the_prefix_cache_keeps_them_apart(lm: gpt2.LanguageModel) -> None:
    adapter = ADAPTERS["everything"]
    options: dict[str, Any] = {"seed": 4, "max_new_tokens": 12, "ignore_eos": True}
    ids = IDS[:80].tolist()
    plain = lm.generate(ids, **options)
    lm.load_adapter(adapter, "a")
    expected = lm.generate(ids, adapter="a", **options)
    stream = lm.stream(ids, adapter="a", **options)
    tokens = [*next(stream).tokens]
    handle = lm._adapters.get("a")
    assert handle is not None
    lm.unload_adapter("a")
    assert handle.users > 0
    tokens += [token for chunk in stream for token in chunk.tokens]
    assert handle.users == 0  # its memory goes with the last request
    assert isinstance(expected, gpt2.Completion)
    assert tuple(tokens) == expected.tokens
    assert lm.generate(ids, **options) == plain != expected
    before = lm.stats().prefix_hit_tokens
    lm.load_adapter(adapter, "b")  # the same function under another name: its prefixes are still there
    assert lm.generate(ids, adapter="b", **options) == expected
    assert lm.stats().prefix_hit_tokens == before + 64
    lm.load_adapter(ADAPTERS["dora"], "c")
    lm.generate(ids, adapter="c", **options)
    assert lm.stats().prefix_hit_tokens == before + 64


def test_loading_and_unloading_while_requests_run(lm: gpt2.LanguageModel) -> None:
    lm.load_adapter(ADAPTERS["dora"], "stays")
    options: dict[str, Any] = {"seed": 4, "max_new_tokens": 20, "ignore_eos": True, "adapter": "stays"}
    expected = lm.generate([1, 2, 3], **options)
    got: list[Any] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            got.append(lm.generate([1, 2, 3], **options))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for at in range(12):
        lm.load_adapter(random_adapter(CONFIG, at, rank=1 + 5 * at), f"comes {at}")
        lm.generate([1, 2], adapter=f"comes {at}", max_new_tokens=2)
        lm.unload_adapter(f"comes {at}")
    done.set()
    for thread in threads:
        thread.join()
    assert list(lm.adapters) == ["stays"]
    assert len(got) > 2
    assert all(one == expected for one in got)


def test_what_does_not_fit_leaves_nothing(lm: gpt2.LanguageModel, tmp_path: Path) -> None:
    other = GPT2Config(**SHAPE | {"n_embd": 40})
    path = save_adapter(tmp_path / "other", random_adapter(other), other)
    for wrong in (path, random_adapter(other)):
        with pytest.raises(errors.WeightsError, match="does not fit the model"):
            lm.load_adapter(wrong, "other")
    lengths = {name: np.zeros(n, np.float32) for name, (_, n) in linear_shapes(CONFIG).items()}
    nothing = {
        name: LowRank(a=m.a, b=0 * m.b, alpha=1.0, magnitude=lengths[name])
        for name, m in ADAPTERS["everything"].modules.items()
    }
    lm.load_adapter(Adapter(modules=nothing), "zero lengths are a model, if a dull one")
    assert list(lm.adapters) == ["zero lengths are a model, if a dull one"]
    assert set(LINEARS) == set(next(iter(lm.adapters.values())).targets)


def test_a_session_goes_on_with_its_adapter_only(
    lm: gpt2.LanguageModel, folder: Path, tmp_path: Path
) -> None:
    lm.load_adapter(ADAPTERS["dora"], "poet")
    session = lm.session(adapter="poet", seed=3)
    session.append(IDS[:70].tolist())
    options: dict[str, Any] = {"max_new_tokens": 5, "ignore_eos": True}
    session.generate(**options)
    session.save(tmp_path / "s.json")
    expected = session.generate(**options).tokens
    again = gpt2.load(folder, threads=2)
    with pytest.raises(errors.SessionMismatch, match="not loaded"):
        again.restore_session(tmp_path / "s.json")
    again.load_adapter(ADAPTERS["mlp"], "poet")
    with pytest.raises(errors.SessionMismatch, match="another one"):
        again.restore_session(tmp_path / "s.json")
    again.load_adapter(ADAPTERS["dora"], "under another name")
    restored = again.restore_session(tmp_path / "s.json")
    assert restored.adapter == "under another name"
    assert restored.generate(**options).tokens == expected
