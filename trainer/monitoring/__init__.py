"""What people see of a run: metrics.jsonl, TensorBoard and the terminal."""
