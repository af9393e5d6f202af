"""Studies of models that are trained for them."""
