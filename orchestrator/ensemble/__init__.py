"""Combine what the search has trained."""
