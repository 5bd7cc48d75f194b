"""The learners that the core replaces, game by game."""
