"""vLLM's own command line, and the image that understands it. Pure."""
