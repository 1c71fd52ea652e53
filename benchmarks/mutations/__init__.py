"""Healthy training tasks, faults planted in them, and what preflight says of each."""
