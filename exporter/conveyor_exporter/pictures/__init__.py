"""Pictures with what they show: read from npz files and folders, as arrays in a network's input range."""
