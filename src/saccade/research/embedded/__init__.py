"""Training of the embedded models from nothing, on scenes drawn on the fly."""
