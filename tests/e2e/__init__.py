"""End to end: a real node runs real vLLM behind a real gateway, and the operator runs in the cluster, installed by Helm."""
