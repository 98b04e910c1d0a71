"""Benchmarks of speed and memory; `python -m bench.speed` lists them."""
