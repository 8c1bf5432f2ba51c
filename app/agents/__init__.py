"""The agents of this installation: one AgentSpec a file, its prompt beside it. Each file here is found at start-up."""
