"""What happened to runs, when, and why."""
