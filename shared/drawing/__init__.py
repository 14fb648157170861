"""Pictures drawn without scoring them, in the worker and in the user's own process: `drawing` draws, `picture_files`
writes."""
