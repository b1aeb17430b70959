"""What is noticed of requests: metrics, the access log, drift."""
