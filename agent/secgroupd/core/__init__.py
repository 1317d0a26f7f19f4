"""What is decided: pure functions over frozen data, without I/O, clock, logging or randomness."""
