"""What a client does with weights, one module per subject; `phema.Client` inherits them all."""
