"""The runs behind the results, and the figures made of them, each by a command."""
