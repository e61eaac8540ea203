"""The reference: ``python -m docs.reference`` writes its pages from the code.

The texts come from the code: from settings, checks, conditions and commands, from comments of
signals, and from docstrings of functions. A test compares the pages with the code.
"""
