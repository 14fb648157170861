"""Deletes runs that users have given up: jobs of kind `delete`."""
