"""What to try, what to stop, what is known: the door to Optuna."""
