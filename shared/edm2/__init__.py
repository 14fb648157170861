"""The EDM2 paper (Karras et al. 2024) in PyTorch and NumPy. Pure: no files, no database, no network access.

Start with `networks.building.build_denoiser` for the networks, `averaging.ema` for the averages kept in training,
`averaging.posthoc` for reconstructing others afterwards, and `sampling.sampler` for drawing pictures.
"""
