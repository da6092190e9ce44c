"""Deployment: nothing in here imports ``ppdet``; ``ppdet`` builds on ``deploy.common``."""
