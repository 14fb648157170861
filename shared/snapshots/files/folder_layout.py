"""Names of the files in a model's folder, which has the layout of `diffusers`."""

from __future__ import annotations

CARD_FILE = "README.md"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
