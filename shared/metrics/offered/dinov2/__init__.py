"""Metrics in DINOv2 ViT-L/14 features."""
