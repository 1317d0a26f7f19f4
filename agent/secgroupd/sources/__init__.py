"""Where the state document comes from."""
