"""One suite a port, run over all its adapters."""
