"""A model with its plans behind an OpenAI-compatible server: small setups, one process, one model."""
