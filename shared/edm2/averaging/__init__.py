"""Averages of weights over training history: kept while training (`ema`), reconstructed afterwards (`posthoc`).

`weightings` defines the kinds of average and `inner_products` compares them. Everything but `ema` and `named_tensors`
needs NumPy only.
"""
