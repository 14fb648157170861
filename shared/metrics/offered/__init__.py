"""One module per metric, with a constant `METRIC`, in one room per feature extractor. Torch-free."""
