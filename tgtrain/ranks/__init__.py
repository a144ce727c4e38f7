"""Processes of one run: start, addresses, failures, signals."""
