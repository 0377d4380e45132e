"""Install the peers, each in a virtual environment of its own, from their published packages.

    python benchmarks/peers/setup.py               # all: about 6 GB, and a C++ compiler for llama.cpp
    python benchmarks/peers/setup.py --only onnxruntime,llamacpp --cache DIR

The cache folder is --cache, $GPT2_PEERS_CACHE, or gpt2-peers in the user's cache folder. An environment that
cannot be made is reported and left out; the comparison runs without it and says so.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from harness import environments
from harness.catalogue import ENVIRONMENTS


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help=f"comma-separated, of: {', '.join(ENVIRONMENTS)}")
    parser.add_argument("--cache", type=Path, default=environments.default_cache())
    parser.add_argument("--again", action="store_true", help="also those that are there already")
    args = parser.parse_args()
    names = [name for name in args.only.split(",") if name] or list(ENVIRONMENTS)
    if unknown := set(names) - set(ENVIRONMENTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(ENVIRONMENTS)}")
    failed = 0
    for name in names:
        result = environments.status(args.cache, name)
        if args.again or "versions" not in result:
            print(f"{name}: installing", flush=True)
            result = environments.make(args.cache, ENVIRONMENTS[name])
        failed += "error" in result
        versions = ", ".join(f"{package} {number}" for package, number in result.get("versions", {}).items())
        print(f"{name}: {versions or 'FAILED: ' + result['error']}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
