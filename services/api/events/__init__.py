"""Changes of jobs and runs as they happen, as server-sent events."""
