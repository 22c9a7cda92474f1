"""What hangs, or never ends, must not hang the daemon."""
