"""Commands of the research part: one file each."""
