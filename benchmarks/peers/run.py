"""Compare this engine with its peers in one interleaved run: speed, cold start, memory, files.

    python benchmarks/peers/setup.py                          # once: install the peers
    python benchmarks/peers/run.py                            # everything; about half an hour on two cores
    python benchmarks/peers/run.py --only gpt2,llama --widths int8,int4 --ops A,A900 --rounds 3
    python benchmarks/peers/run.py --shape 1.5B --alive one
    python benchmarks/peers/run.py --scaling threads,context,batch --only gpt2,openvino

A: one stream, tokens/s from context 32 to 288. A900: the same from 868 to 932. P: prompt tokens/s of a
prefill of 512. B8, B32: tokens/s of 8 and 32 streams together from context 32. cold: seconds from exec to
the first token, and the peak memory of that process after one stream. Greedy, every engine the same random
checkpoint and token ids. Peers that are not installed are named with the reason. The tables go to stdout,
progress to stderr, and --output gets results.json and plot.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path

from harness import checkpoint, environments, report, rounds
from harness.catalogue import ROWS, WIDTHS, select
from harness.operations import Operation, plan

SCALINGS = ("threads", "context", "batch")


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", type=words, default=[], help="words in the names of the rows; all by default"
    )
    parser.add_argument("--widths", type=words, default=[], help=f"of {', '.join(WIDTHS)}; all by default")
    parser.add_argument("--ops", type=words, default=[*plan(), rounds.COLD], help="of the above")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--share", type=float, default=1.0, help="of the tokens of each decode: less for a first look"
    )
    parser.add_argument("--shape", choices=checkpoint.SHAPES, default="124M")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--patience", type=float, default=0.0, help="seconds to wait for calm before each operation"
    )
    parser.add_argument("--alive", choices=("all", "width", "one"), help="engines loaded at once")
    parser.add_argument(
        "--scaling", type=words, default=[], help=f"instead: sweeps over {', '.join(SCALINGS)}"
    )
    parser.add_argument("--max-batch", type=int, default=256, help="the largest batch of --scaling batch")
    parser.add_argument("--cache", type=Path, default=environments.default_cache())
    parser.add_argument("--output", type=Path, help="a folder; by default results/SHAPE in the cache folder")
    args = parser.parse_args()
    known = {"ops": [*plan(), rounds.COLD], "widths": list(WIDTHS), "scaling": list(SCALINGS)}
    for option, values in known.items():
        if wrong := set(getattr(args, option)) - set(values):
            parser.error(f"--{option}: unknown {', '.join(sorted(wrong))}; known: {', '.join(values)}")
    return args


def bench(args: argparse.Namespace, operations: dict[str, Operation], cold: bool) -> rounds.Bench:
    alive = args.alive or ("all" if args.shape == "124M" else "width")
    return rounds.Bench(
        cache=args.cache,
        shape=args.shape,
        threads=args.threads,
        operations=operations,
        cold=cold,
        alive=alive,
        patience=args.patience,
    )


def scaling(kind: str, max_batch: int) -> dict[str, Operation]:
    """The operations of a sweep, by the name that the table and the plot give them."""
    if kind == "context":
        return {f"context {c}": Operation(context=c, new=33) for c in (32, 128, 256, 512, 896)}
    if kind == "batch":
        sizes = [size for size in (1, 2, 4, 8, 16, 32, 64, 128, 256) if size <= max_batch]
        return {f"batch {b}": Operation(context=32, new=17, batch=b) for b in sizes}
    return {"decode": Operation(context=32, new=65), "prefill": Operation(context=512, new=1)}


def sweep(args: argparse.Namespace) -> rounds.Bench:
    """All the sweeps that were asked for, in one set of results."""
    whole = bench(args, {}, cold=False)
    rows = select(ROWS, args.only, args.widths)
    for kind in args.scaling:
        counts = range(1, args.threads + 1) if kind == "threads" else [args.threads]
        for threads in counts:
            part = bench(args, scaling(kind, args.max_batch), cold=False)
            part.threads, part.results, part.limits = threads, whole.results, whole.limits
            part.suffix = f", {threads} threads" if kind == "threads" else ""
            part.run(rows, args.rounds)
            if kind != "threads":  # whose limits would be those of several counts
                whole.operations |= part.operations
    return whole


def main() -> None:
    args = arguments()
    checkpoint.make(args.cache / "shapes" / args.shape / "checkpoint", args.shape)
    if args.scaling:
        done = sweep(args)
    else:
        chosen = {name: op for name, op in plan(args.share).items() if name in args.ops}
        done = bench(args, chosen, cold=rounds.COLD in args.ops)
        done.run(select(ROWS, args.only, args.widths), args.rounds)
    print(report.text(done))
    output = args.output or args.cache / "results" / args.shape
    output.mkdir(parents=True, exist_ok=True)
    found = report.as_json(done) | {"versions": rounds.versions(args.cache, list(ROWS))}
    (output / "results.json").write_text(json.dumps(found, indent=1))
    plotter = environments.python(args.cache, "plot")
    if plotter.exists():
        command = [str(plotter), "-m", "harness.plot", str((output / "results.json").resolve())]
        subprocess.run([*command, str((output / "plot.svg").resolve())], cwd=environments.PEERS, check=False)
    print(f"\n{output / 'results.json'}")


if __name__ == "__main__":
    main()
