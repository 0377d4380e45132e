"""`torchrun --nproc-per-node N -m gpt2.train ARGUMENTS` is `gpt2 train ARGUMENTS` in N processes."""

import sys

from gpt2.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("train", sys.argv[1:]))
