"""Talking to vLLM, and reading what pods say."""
