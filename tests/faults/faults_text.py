"""Hostile bytes in what others name and say."""
