"""The API server: get, list, apply, delete; errors classified in one place; an in-memory twin for tests."""
