"""Samples judged by the protocols of the field."""
