"""What the doctor looks at: nodes, the token and the dashboard, and what their reports mean."""
