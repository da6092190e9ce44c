"""Deployment. No module in this package imports ``ppdet``; ``ppdet`` imports ``deploy.common``."""
