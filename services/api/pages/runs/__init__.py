"""The pages of runs: the list, the form for a new one, one run, and runs side by side."""
