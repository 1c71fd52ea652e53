"""The parts of ``live.py``: problems, the stored pool of random trainings, and one module a method."""
