"""Pure decisions and transforms: no I/O, clock, thread or framework."""
