"""The parts of ``benchmarks/ensemble.py``."""
