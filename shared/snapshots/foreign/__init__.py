"""Files that other programs wrote, read without running anything in them.

`machine` reads pickle streams into the inert `records`; `published` and `arguments` make of them the network of a
published EDM2 snapshot, and `naming` says which time and profile a file has: all without torch. `storages` reads the
tensors of a pickle, `state_dicts` other files, `zips` checks torch's archives, and `weights` is what comes of them.
"""
