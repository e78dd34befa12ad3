"""Several processes that share one port: a supervisor, which accepts connections, and workers, which serve them."""
