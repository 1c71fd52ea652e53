"""The sides of ``scale.py``: what a driver does, on workers that sleep and on none."""
