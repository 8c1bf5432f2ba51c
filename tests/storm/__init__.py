"""Events that are captured, relayed and delivered while the processes that do it are killed at random."""
