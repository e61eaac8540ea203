"""The reference: ``python -m docs.reference`` writes its pages from the code.

Their texts are those of the code: of settings, checks, conditions and commands, comments of signals
and docstrings of functions. A test compares the pages with what the code says.
"""
