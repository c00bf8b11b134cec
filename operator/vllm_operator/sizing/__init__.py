"""Facts and wishes → plan: which accelerator, how many GPUs, which parallel sizes. Pure."""
