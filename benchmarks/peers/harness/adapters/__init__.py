"""One file per engine: `convert` makes its model files from the common checkpoint, `Engine` runs them.

    convert(checkpoint: Path, folder: Path, options: dict) -> None
    Engine(folder: Path, checkpoint: Path, threads: int, options: dict)
    Engine.run(prompts, new_tokens) -> Times

Adapters know nothing of what is measured; harness/operations.py knows nothing of engines.
"""
