"""What a model is, read from its config.json and the headers of its weights: never from the weights themselves."""
