"""Parts of the variants of the attention unit that `benchmarks/ablations.py` defines."""
