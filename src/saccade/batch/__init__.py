"""Answers to many questions, by as many processes as there are: in shards, resumable, every record once."""
