"""Ids of generated strings, compared with tiktoken: the long form of test_ids.py.

    python tests/tokenizer/fuzz_ids.py --strings 1000000            # the real vocabulary in ../shared
    python tests/tokenizer/fuzz_ids.py --strings 100000 --vocab DIR --seed 7

Prints the first string that differs and ends with 1, or the counts and 0.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from gpt2.tokenizer import Tokenizer  # noqa: E402
from tokenizer.oracle import by_tiktoken, first_difference  # noqa: E402
from tokenizer.strings import hard_strings  # noqa: E402

BATCH = 10_000


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--strings", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vocab", type=Path, default=ROOT.parent / "shared" / "data" / "tokenizer")
    args = parser.parse_args()
    tokenizer = Tokenizer.load(args.vocab)
    oracle = by_tiktoken(tokenizer)
    start, tokens, size = time.perf_counter(), 0, 0
    for done in range(0, args.strings, BATCH):
        texts = list(hard_strings(min(BATCH, args.strings - done), seed=args.seed + done))
        for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
            theirs = oracle(text)
            if ids != theirs or tokenizer.decode(ids) != text:
                print(f"seed {args.seed + done}: {text!r}: {first_difference(ids, theirs)}")
                return 1
            tokens += len(ids)
            size += len(text)
    seconds = time.perf_counter() - start
    print(f"{args.strings} strings, {size} characters, {tokens} tokens: all equal ({seconds:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
