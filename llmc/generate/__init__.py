"""The parts of a generation: what is asked for, the choice of the next token, texts that end a row."""
