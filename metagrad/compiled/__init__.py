"""Passes of small networks in code of our own, compiled when it is first called."""
