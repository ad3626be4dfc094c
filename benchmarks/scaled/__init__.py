"""The parts of study.py: splits, made centres, arms, runs, and what they say together."""
