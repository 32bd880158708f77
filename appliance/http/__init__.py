"""The HTTP doors: each parses its wire form, runs the pipeline, and writes its wire form."""
