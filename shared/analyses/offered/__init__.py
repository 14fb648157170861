"""One module per analysis; `phema.shared.analyses.kinds` lists them."""
