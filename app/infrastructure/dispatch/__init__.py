"""Who executes a run, and when."""
