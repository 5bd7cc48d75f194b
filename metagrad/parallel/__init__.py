"""Several processes that train as one, each on its share of the episodes."""
