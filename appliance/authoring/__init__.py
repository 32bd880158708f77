"""Tools for the author of a model: bundle files into a model folder, and compare with the author's own answers."""
