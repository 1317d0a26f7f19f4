"""What is done: one kernel subsystem a module, without policy."""
