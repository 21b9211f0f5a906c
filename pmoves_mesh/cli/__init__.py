"""The command line: a module per command group, and the only reader of the arguments."""
