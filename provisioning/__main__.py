"""`python -m provisioning`."""

from provisioning.cli import main

main(prog_name="appliance-provision")
