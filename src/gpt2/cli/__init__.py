"""The command line: `main.py` is one table of commands, every command is one file and a thin caller of the
public API.

Nothing heavy is imported until a command has been chosen, so that `gpt2 --help` is there at once.
"""
