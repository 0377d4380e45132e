"""The kernels beside the machine's limits: builds benchmarks/kernels/bench.cc, runs it, and prints a table.

    python benchmarks/kernels/run.py                     # two threads, the fastest instruction set
    python benchmarks/kernels/run.py --threads 1 --isa avx2

One row is decoding (the limit is reading), 256 rows are prefill (the limit is arithmetic). The last line is
JSON. Needs cmake and a C++ compiler.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def build(folder: Path) -> Path:
    options = ["-DGPT2_PYTHON=OFF", "-DGPT2_BENCH=ON", "-DCMAKE_BUILD_TYPE=Release"]
    subprocess.run(["cmake", "-S", str(ROOT), "-B", str(folder), *options], check=True, capture_output=True)
    subprocess.run(
        ["cmake", "--build", str(folder), "--target", "gpt2_bench_kernels", "-j"],
        check=True,
        capture_output=True,
    )
    return folder / "benchmarks" / "kernels" / "gpt2_bench_kernels"


def table(result: dict[str, Any]) -> str:
    limits = sorted((int(mb), gb) for mb, gb in result["read_gb_s"].items())
    reads = ", ".join(f"{gb} at {mb} MB" for mb, gb in result["read_gb_s"].items())
    lines = [f"{result['isa']}, {result['threads']} threads; reads in GB/s: {reads}", ""]
    lines.append(f"{'weights':<10}{'MB':>7}{'rows':>6}{'ms':>10}{'GB/s':>8}{'of it':>7}{'10^9 op/s':>11}")
    for name, kind in result["kernels"].items():
        # What memory gives at the next larger working set that was measured.
        limit = next((gb for mb, gb in limits if mb * 1.05 >= kind["mb"]), limits[-1][1])
        for key, row in kind.items():
            if key == "mb":
                continue
            share = f"{row['gb_s'] / limit:.0%}"
            lines.append(
                f"{name:<10}{kind['mb']:>7.0f}{key.removeprefix('rows_'):>6}{row['ms']:>10.2f}{row['gb_s']:>8.1f}"
                f"{share:>7}{row['gop_s']:>11.0f}"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--isa", default="auto")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        program = build(Path(folder))
        out = subprocess.run(
            [program, str(args.threads), args.isa], check=True, capture_output=True, text=True
        )
    result = json.loads(out.stdout)
    print(table(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
