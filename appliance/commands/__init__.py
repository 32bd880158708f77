"""The commands of `appliance` that are groups or longer than a few lines, one module each."""
