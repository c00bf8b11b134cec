"""kubectl-vllm: what can be asked without an operator."""
