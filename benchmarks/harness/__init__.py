"""What the commands of this folder share: servers to compare, loads to put on them, and honest figures of both."""
