"""Opening a model: its processor and its weights, from a folder or the hub, or one line that says why not."""
