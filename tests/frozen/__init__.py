"""Reference values of the learners, and what reads, makes and compares them."""
