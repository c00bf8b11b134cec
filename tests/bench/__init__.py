"""Benchmarks of the operator on the local control plane: `python -m tests.bench`."""
