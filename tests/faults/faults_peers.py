"""Servers and files that are hostile rather than away."""
