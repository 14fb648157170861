"""Reads files that other programs wrote, without running anything in them.

`file_names` finds the time and the profile of each file of a folder. `pickle_reader` reads pickle streams; it builds
only what an allowlist permits: the inert objects of `pickle_records`. `published_pickles`, with `published_allowlist`
and `network_arguments`, finds the network in a snapshot that EDM2's authors published. These modules do not need torch.

`tensor_storages` reads the tensors of such a pickle. `state_dicts` reads safetensors files and torch checkpoints, after
`torch_zips` and `checkpoint_pickles` have checked the latter. `weights` converts the tensors to phema's snapshots.
"""
