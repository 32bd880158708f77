"""An inference appliance: one box that judges parts next to the machines, over HTTP and MQTT."""

__version__ = "0.1.0"
