"""The process: kopf's handlers, settings, metrics, health, main. The only importer of kopf."""
