"""What is made of runs: tables, figures, replays and reports."""
