"""The parts of ``ensemble.py``: one module a subcommand."""
