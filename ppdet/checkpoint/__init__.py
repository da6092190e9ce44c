"""Weights on disk: finding, downloading, reading and writing them, and filling a model with them.

``weights.py`` fills a model; ``weight_files.py`` knows the files, ``formats`` their layouts, ``names`` the parameter
names that other implementations use, and ``convert.py`` applies those. Nothing here knows about training.
"""
