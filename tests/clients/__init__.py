"""What the clients and servers of other projects run, each in an environment of its own."""
