"""From items to raw outputs: a published model, its card, and what runs its graph."""
