"""The words of the system: frozen models, ports, errors. No I/O, no SDK, no framework."""
