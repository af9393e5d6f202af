"""Every method on every family, against a slow reference that knows nothing of the engine."""
