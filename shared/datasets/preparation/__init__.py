"""Making datasets: `conversion` crops photographs to squares, `vae` encodes them to latents and decodes latents."""
