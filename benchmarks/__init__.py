"""Measurements that are no part of the harness. ``python -m benchmarks``: the table of time and memory beside other programs';
``python -m benchmarks.gpu7b``: the paper's scale on one GPU; ``python benchmarks/sandbox.py``: the sandbox's cost a program."""
