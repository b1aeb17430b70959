"""The HTTP application: routes, what they take and give, who may ask. Knows no Ray."""
