"""The machine around the process: the hub, free memory, the terminal."""
