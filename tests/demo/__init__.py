"""`make demo`: from nothing to a chat completion, each step told as it happens."""
