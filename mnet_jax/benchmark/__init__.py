"""Benchmarks against other libraries: one process per contender, sampled in turn, with spreads."""
