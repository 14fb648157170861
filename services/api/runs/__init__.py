"""Training runs; their clock is `num_images`, the number of images seen."""
