"""What durable-agents costs beside the SDK's own parts; `python -m benchmarks` prints it. Never a test."""
