"""Signed updates of models: trust, download, staging and the self-test. Runs in a process of its own."""
