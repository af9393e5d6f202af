"""Plans: the file users keep, spec strings, names, and budgets turned into layers."""
