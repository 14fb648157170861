"""Weight files of published feature extractors: found, read without executing code, converted once and kept."""
