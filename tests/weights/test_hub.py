"""Names to directories: the cache before the hub, and every way in which a hub or a disk fails.

The hub is a stand-in in this process (hub_server.py); each client is a process of its own, because
huggingface_hub reads its settings when it is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gpt2.errors import ModelNotFound
from gpt2.weights import hub, open_weights, save_safetensors
from machine import need
from weights.hub_server import Hub, Model
from weights.make_files import TINY, tiny_arrays

CLIENT = """
import json, resource, sys
from gpt2.errors import Error
from gpt2.weights import hub
call, args, limit = json.loads(sys.argv[1])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
seen = []
if call == "pull":
    args["progress"] = lambda done, total: seen.append((done, total))
try:
    out = getattr(hub, call)(**args)
    out = {"path": str(out)} if call != "list_models" else {"ids": [model.id for model in out]}
except Error as error:
    out = {"error": type(error).__name__, "text": str(error)}
out["imported"] = "huggingface_hub" in sys.modules
out["progress"] = seen[-1:]
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a tiny model, and others that the hub's repositories have beside them."""
    folder = tmp_path_factory.mktemp("model")
    TINY.save(folder)
    save_safetensors(folder / "model.safetensors", tiny_arrays())
    needed = {path.name: path.read_bytes() for path in folder.iterdir()}
    vocabulary = {"vocab.json": b"{}", "merges.txt": b"#version: 0.2\n", "generation_config.json": b"{ }"}
    return {**needed, **vocabulary}


OTHERS = {"README.md": b"# hello", "tf_model.h5": bytes(99), "onnx/model.onnx": bytes(99), "run.py": b"1/0"}


@pytest.fixture
def server(files: dict[str, bytes]) -> Iterator[Hub]:
    models = {
        "openai-community/gpt2": Model({**files, **OTHERS, "pytorch_model.bin": bytes(9)}),
        "me/private": Model(files, token="hf_secretsecret"),
        "me/gated": Model(files, gated=True),
        "me/nothing": Model({"README.md": b"", "config.json": files["config.json"]}),
    }
    with Hub(models) as running:
        yield running


def client(
    home: Path,
    url: str,
    call: str = "pull",
    *,
    limit: int = 0,
    env: dict[str, str] | None = None,
    **args: Any,
) -> Any:
    """Run one call of gpt2.weights.hub in a fresh process."""
    clean = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("HF_", "HUGGING", "TRANSFORMERS"))
    }
    settings = {
        "HF_HOME": str(home),
        "HF_ENDPOINT": url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, json.dumps([call, args, limit])],
        env={**clean, **settings, **(env or {})}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "the library never prints"
    return json.loads(done.stdout)


def incomplete(home: Path) -> list[str]:
    return [str(path) for path in home.rglob("*.incomplete")]


def test_pull_then_load_without_any_request(server: Hub, tmp_path: Path, files: dict[str, bytes]) -> None:
    pulled = client(tmp_path, server.url, model="gpt2")
    folder = Path(pulled["path"])
    assert {
        path.name: path.read_bytes() for path in folder.iterdir()
    } == files  # no .bin, no code, no other formats
    done, total = pulled["progress"][0]
    assert done == total == sum(map(len, files.values()))
    assert not any("authorization" in headers for _, _, headers in server.requests)
    with open_weights(folder, TINY) as weights:
        assert len(weights) == len(tiny_arrays())

    count = len(server.requests)
    commit = server.models["openai-community/gpt2"].commit
    for model, revision in (
        ("gpt2", None),
        ("openai-community/gpt2", None),
        ("gpt2", commit),
        ("gpt2", "main"),
    ):
        again = client(tmp_path, server.url, "resolve", model=model, revision=revision)
        assert again == {"path": str(folder), "imported": False, "progress": []}
    offline = client(tmp_path, "http://127.0.0.1:9", "resolve", model="gpt2", env={"HF_HUB_OFFLINE": "1"})
    assert offline["path"] == str(folder)
    listed = client(tmp_path, server.url, "list_models")
    assert "openai-community/gpt2" in listed["ids"]
    assert not listed["imported"]
    assert len(server.requests) == count


def test_bin_where_there_is_no_safetensors(server: Hub, tmp_path: Path, files: dict[str, bytes]) -> None:
    parts = {name: data for name, data in files.items() if name != "model.safetensors"}
    server.models["me/old"] = Model({**parts, "pytorch_model.bin": b"PK"})
    folder = Path(client(tmp_path, server.url, model="me/old")["path"])
    assert {path.name for path in folder.iterdir()} == {*parts, "pytorch_model.bin"}


def test_all_shards(server: Hub, tmp_path: Path, files: dict[str, bytes]) -> None:
    parts = {name: data for name, data in files.items() if name != "model.safetensors"}
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = {"weight_map": {"a": shards[0], "b": shards[1]}}
    parts |= {"model.safetensors.index.json": json.dumps(index).encode(), **dict.fromkeys(shards, b"12")}
    server.models["me/large"] = Model(parts)
    folder = Path(client(tmp_path, server.url, model="me/large")["path"])
    assert {path.name for path in folder.iterdir()} == set(parts)
    # A snapshot that lacks a shard is not taken for whole.
    (folder / shards[1]).unlink()
    count = len(server.requests)
    assert client(tmp_path, server.url, "resolve", model="me/large")["path"] == str(folder)
    assert len(server.requests) > count
    assert (folder / shards[1]).read_bytes() == b"12"


def test_a_snapshot_without_vocabulary_offline(server: Hub, tmp_path: Path) -> None:
    folder = Path(client(tmp_path, server.url, model="gpt2")["path"])
    (folder / "vocab.json").unlink()
    got = client(tmp_path, server.url, "resolve", model="gpt2", env={"HF_HUB_OFFLINE": "1"})
    assert got["path"] == str(folder)


def test_a_cut_connection_is_resumed(server: Hub, tmp_path: Path, files: dict[str, bytes]) -> None:
    big = {**files, "model.safetensors": os.urandom(22 << 20)}
    server.models["me/big"] = Model(big)
    server.cut_after, server.cuts = 12 << 20, 1  # huggingface_hub keeps what it has by pieces of 10 MB
    folder = Path(client(tmp_path, server.url, model="me/big")["path"])
    assert (folder / "model.safetensors").read_bytes() == big["model.safetensors"]
    assert server.cuts == 0
    assert any("range" in headers for _, _, headers in server.requests)
    assert not incomplete(tmp_path)


def test_two_pulls_at_once(server: Hub, tmp_path: Path, files: dict[str, bytes]) -> None:
    server.delay = 0.3
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda _: client(tmp_path, server.url, model="gpt2"), range(2)))
    assert both[0]["path"] == both[1]["path"]
    folder = Path(both[0]["path"])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert not incomplete(tmp_path)


@pytest.mark.parametrize("token", [None, "hf_secretsecret", "hf_wrongwrong"])
def test_a_private_model_and_its_token(server: Hub, tmp_path: Path, token: str | None) -> None:
    got = client(tmp_path, server.url, model="me/private", env={"HF_TOKEN": token} if token else None)
    sent = {headers.get("authorization") for _, _, headers in server.requests}
    assert sent == {f"Bearer {token}" if token else None}
    if token == "hf_secretsecret":
        assert Path(got["path"], "model.safetensors").is_file()
    else:
        assert got["error"] == "ModelNotFound"
        assert "HTTP 401" in got["text"]
        assert "HF_TOKEN" in got["text"]
        assert "hf_" not in got["text"]
    assert not any(
        "secret" in path.read_text("utf-8", "replace") for path in tmp_path.rglob("*") if path.is_file()
    )


def test_refusals_of_the_hub(server: Hub, tmp_path: Path) -> None:
    gated = client(tmp_path, server.url, model="me/gated")
    assert gated["error"] == "HubError"
    assert "gated" in gated["text"]
    unknown = client(tmp_path, server.url, "resolve", model="openai-community/gtp2")
    assert unknown["error"] == "ModelNotFound"
    assert "did you mean 'openai-community/gpt2'?" in unknown["text"]
    revision = client(tmp_path, server.url, model="gpt2", revision="v7")
    assert revision["error"] == "ModelNotFound"
    assert "no such revision: got 'v7'" in revision["text"]
    empty = client(tmp_path, server.url, model="me/nothing")
    assert empty["error"] == "ModelNotFound"
    assert "no weights" in empty["text"]


def test_no_network(tmp_path: Path) -> None:
    got = client(tmp_path, "http://127.0.0.1:9", "resolve", model="gpt2")
    assert got["error"] == "HubError"
    assert "could not be reached" in got["text"]
    offline = client(tmp_path, "http://127.0.0.1:9", "resolve", model="gpt2", env={"HF_HUB_OFFLINE": "1"})
    assert offline["error"] == "ModelNotFound"
    assert "HF_HUB_OFFLINE" in offline["text"]
    assert str(tmp_path) in offline["text"]


def test_a_file_that_may_not_grow(server: Hub, tmp_path: Path, files: dict[str, bytes]) -> None:
    server.models["me/big"] = Model({**files, "model.safetensors": os.urandom(1 << 20)})
    got = client(tmp_path, server.url, model="me/big", limit=1 << 18)
    assert got["error"] == "HubError"
    assert "could not be stored: got the file is larger than is allowed" in got["text"]
    assert not incomplete(tmp_path)
    assert Path(
        client(tmp_path, server.url, "resolve", model="me/big")["path"], "model.safetensors"
    ).is_file()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 kB. Only root can make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = os.geteuid() == 0 and not os.system(f"mount -t tmpfs -o size=512k none '{folder}' 2>/dev/null")
    if not made:
        pytest.skip("needs the right to mount a file system; test_a_file_that_may_not_grow covers the path")
    yield folder
    os.system(f"umount '{folder}'")


def test_a_full_disk(server: Hub, small_disk: Path, files: dict[str, bytes]) -> None:
    server.models["me/big"] = Model({**files, "model.safetensors": os.urandom(1 << 20)})
    got = client(small_disk, server.url, model="me/big")
    assert got["error"] == "HubError"
    assert "no space left" in got["text"]
    assert not incomplete(small_disk)
    assert not list(small_disk.rglob("model.safetensors"))


def test_a_read_only_disk(server: Hub, small_disk: Path) -> None:
    os.system(f"mount -o remount,ro '{small_disk}'")
    got = client(small_disk, server.url, model="gpt2")
    assert got["error"] == "HubError"
    assert "read-only" in got["text"]


def test_a_cache_that_may_not_be_written(server: Hub, tmp_path: Path) -> None:
    need(
        os.geteuid() != 0 or Path("/proc/version").exists(),
        "root may write everywhere, and there is no /proc",
    )
    home = tmp_path / "locked"
    home.mkdir(mode=0o500)
    got = client(home if os.geteuid() else Path("/proc/gpt2-cache"), server.url, model="gpt2")
    assert got["error"] == "HubError"
    assert "could not be stored" in got["text"]


# What needs no hub


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "my-model"
    model.mkdir()
    assert hub.resolve(str(model)) == hub.resolve(model) == model
    assert hub.resolve("./my-model") == Path("my-model")
    with pytest.raises(ModelNotFound, match=r"did you mean 'my-model'\?"):
        hub.resolve("./my-modle")
    with pytest.raises(ModelNotFound):
        hub.resolve(tmp_path / "gone")
    for name in (
        "",
        "a/b/c",
        "../../etc/passwd",
        "a b",
        "models--a--b",
        "a\0b",
        "x" * 300,
        "-rf",
        "a/..",
        "http://x/y",
    ):
        with pytest.raises(ModelNotFound):
            hub.resolve(name)


def test_a_folder_that_only_shares_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`gpt2` in a checkout of this project is the package, not a model."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").mkdir()
    with pytest.raises(ModelNotFound, match="openai-community/gpt2"):
        hub.resolve("gpt2")
    TINY.save(tmp_path / "gpt2")
    assert hub.resolve("gpt2") == Path("gpt2")


def test_the_bundled_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    if not (Path(hub.__file__).parent.parent / "assets" / "demo" / "config.json").is_file():
        with pytest.raises(ModelNotFound, match="installation"):
            hub.resolve(None)
        return
    folder = hub.resolve(None)
    assert hub.resolve("demo") == folder
    assert [model.id for model in hub.list_models()] == ["demo"]
    assert hub.list_models()[0].size < 12 << 20
