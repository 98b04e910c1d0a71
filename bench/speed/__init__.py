"""Measures speed and memory; `python -m bench.speed` lists the programs."""
