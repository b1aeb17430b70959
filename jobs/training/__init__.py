"""Training: one loop for every objective, in a Ray Train worker, a task, a trial of a search or a plain process."""
