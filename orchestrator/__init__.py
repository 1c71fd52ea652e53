"""A staged hyperparameter-search orchestrator for neural networks."""

__version__ = "0.1.0"
