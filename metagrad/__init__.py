"""A central designer that learns incentives by differentiating through the agents' own learning step."""
