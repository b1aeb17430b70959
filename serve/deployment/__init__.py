"""What runs on Ray Serve: replicas, and what they do beside answering."""
