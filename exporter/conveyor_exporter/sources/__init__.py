"""Where a network comes from: Keras' files, a torch module with its weights, a specification in TOML."""
