"""What each notebook runs: data, models and methods put together, cached where it takes long."""
