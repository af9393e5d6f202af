"""What visual tokens are and which of them a layer works on: pure functions, without a model or a file."""
