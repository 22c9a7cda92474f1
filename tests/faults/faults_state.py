"""The state directory: full, torn, read-only, shared, somebody else's, slow."""
