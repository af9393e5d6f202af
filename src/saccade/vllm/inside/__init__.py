"""What touches vLLM's internals, one hook a file; imports vLLM, so only vLLM's own processes import it."""
