"""What ``secgroupctl`` does, a module for each group of verbs.

Each has ``add(verbs)``, which adds its verbs to the parser; a verb's ``run`` takes the parsed
arguments, writes to stdout, and returns the exit code.
"""
