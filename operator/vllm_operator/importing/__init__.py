"""What starts a vLLM elsewhere (a shell's command line, docker run, a compose service) → a VLLMModel. Pure: nothing is run."""
