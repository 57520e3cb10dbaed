"""What a command would do: the flows' own choices looked at, with nothing computed and nothing written."""
