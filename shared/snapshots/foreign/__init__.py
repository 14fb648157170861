"""Files that other programs wrote, read without running anything in them.

`machine` reads pickle streams into the inert `records`; `published` and `arguments` make of them the network of a
published EDM2 snapshot; `storages` and `weights` read its tensors. Only the last two import torch.
"""
