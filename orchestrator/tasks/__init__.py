"""What is trained: the task protocol and the shipped tasks."""
