"""Too many events, failures, notes and log lines."""
