"""OpenVINO GenAI's ContinuousBatchingPipeline (paged attention), its model exported by optimum-intel.

Setting: latency hint, the threads asked for, no pinning to cores (the machine may be shared); all sequences
in one batch and prompts in one chunk; prefix caching off (prompts are fresh anyway); cache precision and
the arithmetic's precision as the row says. The widths are those of the export: fp32; fp16 run with bf16
arithmetic; int8 (per channel, asymmetric); int4 (symmetric groups of 64, every matrix, the head and the
embedding in int8: optimum's default).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai

from harness.operations import Prompts
from harness.stepping import SteppedEngine


def convert(checkpoint: Path, folder: Path, options: dict[str, Any]) -> None:
    command = [str(Path(sys.executable).parent / "optimum-cli"), "export", "openvino"]
    command += [
        "--model",
        str(checkpoint),
        "--task",
        "text-generation-with-past",
        "--library",
        "transformers",
    ]
    command += ["--weight-format", options["weights"]]
    if options["weights"] == "int4":
        command += ["--sym", "--group-size", "64", "--ratio", "1.0"]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])


class Engine(SteppedEngine):
    def __init__(self, folder: Path, checkpoint: Path, threads: int, options: dict[str, Any]) -> None:
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = 0  # grows as needed
        scheduler.max_num_seqs = 256
        scheduler.max_num_batched_tokens = 8192
        scheduler.dynamic_split_fuse = False
        scheduler.enable_prefix_caching = False
        properties = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": options["precision"],
            "KV_CACHE_PRECISION": options["cache"],
        }
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(
            str(folder), scheduler_config=scheduler, device="CPU", properties=properties
        )

    def start(self, prompts: Prompts, new_tokens: int) -> None:
        self.asked = new_tokens
        generation = openvino_genai.GenerationConfig()
        generation.max_new_tokens = new_tokens
        generation.ignore_eos = True
        generation.do_sample = False
        self.handles = [
            self.pipeline.add_request(i, openvino.Tensor(np.array([prompt], dtype=np.int64)), generation)
            for i, prompt in enumerate(prompts)
        ]
        self.pipeline.step()

    def step(self) -> None:
        self.pipeline.step()

    def chosen(self) -> list[int]:
        """Also the proof that a step made one token for each request, no more and no less."""
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()
            raise RuntimeError("the pipeline needed more steps than tokens")
        made = [handle.read_all()[0].generated_ids for handle in self.handles]
        if any(len(ids) != self.asked for ids in made):
            raise RuntimeError("a completion is shorter than was asked for")
        return [int(ids[-1]) for ids in made]
