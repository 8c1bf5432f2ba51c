"""The agent registry: from AgentSpec and native SDK agents to SDK agents, built once at start-up, then looked up."""
