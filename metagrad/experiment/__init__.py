"""Runs as folders, and the command line."""
