"""Change without fear: what stands between requests and models while a new one is tried."""
