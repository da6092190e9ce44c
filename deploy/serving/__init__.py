"""An exported model as an HTTP service: requests are batched, bounded and measured."""
