"""Where results are written for review."""
