"""Typed settings and the door to Hydra."""
