"""Calls to upstream models that pass through: the connections, and the JSON that is read on the way."""
