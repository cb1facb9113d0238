"""Evaluation: answers of systems, kept; scores of them, and the edits behind error rates.

Import from the submodules. Scoring (`kikimimi.evaluation.score`) needs no torch; nothing is imported here, so
that it starts at once.
"""
