"""Microbenchmarks, run by `python -m benchmarks`: one file a subject, in groups of jaxrel beside its peers."""
