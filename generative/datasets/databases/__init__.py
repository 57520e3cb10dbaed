"""Databases on the network: asking politely, page by page, so that nothing is lost and nothing comes twice."""
