"""The OpenAI-compatible endpoints: wire shape to our models and back."""
