"""The machine around the process: files that appear whole, the hub, free memory, the terminal."""
