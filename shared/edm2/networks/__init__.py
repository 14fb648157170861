"""The networks of configurations A to G. Start with `building.build_denoiser` and `config.NetworkConfig`.

`unet` and `layers` are configuration G, `configurations` holds A to F, and `denoiser` is the preconditioning around all
of them. `topology` (block positions and widths) and `costs` (parameters, flops) are free of torch.
"""
