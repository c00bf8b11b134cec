"""What goes wrong while something is imported."""


class ImportRefused(Exception):
    """It cannot be a VLLMModel; says why, and what to do."""
