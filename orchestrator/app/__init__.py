"""The command: where everything is wired together."""
