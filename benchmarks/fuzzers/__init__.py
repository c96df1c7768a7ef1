"""Random and hostile problems against float64: what the documentation promises, counted.

One module a kind, with a function `batches(rng)` that yields `Tally`s until it is stopped.
"""
