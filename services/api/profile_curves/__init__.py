"""The plan of a reconstruction with its curves, for drawing."""
