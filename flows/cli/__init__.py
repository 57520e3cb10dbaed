"""The command line: what all commands share, and a file per group of commands."""
