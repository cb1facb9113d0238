"""Evaluation: scores, the edits behind them, and the report.

Import from the submodules. Scoring (`kikimimi.evaluation.score`) needs jiwer only; nothing is imported here,
so that it starts at once.
"""
