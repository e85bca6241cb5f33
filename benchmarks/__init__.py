"""How fast it is, as ratios to peers that are measured in the same run: `make bench`, or `python -m benchmarks`."""
