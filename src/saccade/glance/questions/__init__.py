"""Writers of questions, one module per group of scene types; they see facts, never pixels."""
