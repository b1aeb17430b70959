"""Ray as it is reached: a cluster that is there or one of its own, its jobs and their logs."""
