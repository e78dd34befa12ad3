"""The ring that owns models and runs them. It knows nothing of the wire."""
