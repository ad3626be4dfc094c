"""How a batch comes into being: threads, memory, faults."""
