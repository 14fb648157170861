"""How responses show themselves: one line in a terminal, tables and pictures in a notebook, data frames."""
