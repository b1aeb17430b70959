"""A model as the routes see it: here, elsewhere, spread; canary, shadow and cascade around it."""
