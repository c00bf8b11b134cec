"""One OpenAI endpoint for all models: what Envoy is told, and the server that tells it."""
