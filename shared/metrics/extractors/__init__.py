"""One module per feature extractor, with a constant `EXTRACTOR`. Torch-free."""
