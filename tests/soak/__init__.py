"""A soak of the gateway: steady load while everything behind it changes: `python -m tests.soak`."""
