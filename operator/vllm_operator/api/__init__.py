"""What users write and read: the VLLMModel resource, its conditions and reasons. Pure: no I/O."""
