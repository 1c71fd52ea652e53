"""Checks of data and training code, run before a sweep pays for their faults."""
