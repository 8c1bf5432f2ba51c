"""durable-agents: OpenAI Agents SDK agents run as a service, with durable sessions and accounted runs."""

__version__ = "0.1.0"
