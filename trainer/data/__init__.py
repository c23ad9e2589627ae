"""From pictures to batches: preparing, inspecting and reading data."""
