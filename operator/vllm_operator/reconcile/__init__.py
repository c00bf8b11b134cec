"""The engine: a de-duplicating queue, and for each key load → decide → build → apply → observe → report."""
