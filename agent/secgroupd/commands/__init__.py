"""What ``secgroupctl`` does, a module for each group of verbs.

Each has its verbs as values (``usage.Verb``), of which the parser, the help and the pages are made;
a verb's ``run`` takes the parsed arguments, writes to stdout, and returns the exit code.
"""
