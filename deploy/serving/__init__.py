"""HTTP service for exported models with batching, resource limits and metrics."""
