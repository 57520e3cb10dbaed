"""Campaigns: many chemical systems, one budget."""
