"""Kubernetes operator for vLLM: a `VLLMModel` becomes a served model."""

__version__ = "0.1.0"
