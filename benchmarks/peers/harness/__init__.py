"""The parts of the comparison with other engines; README.md beside it is the map.

The runner's side (catalogue, checkpoint, environments, workers, measure, table, report) needs numpy and
gpt2; the workers' side (worker, operations, adapters) runs in each peer's own environment and needs that
peer alone.
"""
