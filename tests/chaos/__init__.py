"""Several processes that are killed and frozen at random while they share many runs."""
