"""Several processes that train as one: who they are, meeting, and noticing a loss."""
