"""What any long-running program needs: whole files, locks, journals, threads, what is installed."""
