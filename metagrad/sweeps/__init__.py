"""Many runs: seeds, grids and searches as one study that can be stopped and continued."""
