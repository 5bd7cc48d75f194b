"""The long form of the tests: hostile inputs by the million, kills, damaged files; see ``docs/reliability.md``."""
