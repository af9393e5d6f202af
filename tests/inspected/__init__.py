"""Which classes of transformers an adapter made by inspection serves: ``python -m inspected``."""
