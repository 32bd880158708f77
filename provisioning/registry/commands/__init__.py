"""The commands of `appliance-registry`, one module for each kind of work."""
