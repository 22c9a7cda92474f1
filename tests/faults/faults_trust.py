"""Who may write below the parent: marks, locks, neighbours and the guard."""
