"""Another name for a run; its id stays."""
