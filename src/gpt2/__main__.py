"""`python -m gpt2` is the command `gpt2`."""

import sys

from gpt2.cli.main import entry

if __name__ == "__main__":
    sys.exit(entry())
