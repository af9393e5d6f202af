"""What a model is asked: samples, JSONL files, pictures and their limits, prompts."""
