"""Playing episodes: environments and their random streams, rollouts, and what they write down."""
