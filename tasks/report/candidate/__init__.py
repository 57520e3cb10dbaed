"""The page of one candidate, to be sent to somebody."""
