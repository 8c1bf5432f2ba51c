"""The adapter to the OpenAI Agents SDK: the only package that imports it."""
