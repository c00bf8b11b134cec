"""Plan → Kubernetes objects: one pure builder for each object."""
