"""General helpers that do not depend on models or data: command lines, logging, downloads, archives, scalars."""
