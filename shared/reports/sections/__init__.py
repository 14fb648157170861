"""Sections of a report. Each module has `section(findings) -> str`: HTML, or empty if there is nothing to show."""
