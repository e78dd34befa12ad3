"""What the commands do and say, one module for each way to a published model."""
