"""Central: what model updates are published with, signed, and taken back (`appliance-registry`)."""
