"""Use cases, one a file; they know ports, never adapters."""
