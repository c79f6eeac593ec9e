"""The parts of a generation: the choice of the next token."""
