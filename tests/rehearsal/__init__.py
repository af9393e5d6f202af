"""The rehearsal: checkpoints of the hub laid out small, and every command run on them."""
