"""The run journal over every database."""
