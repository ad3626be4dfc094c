"""g2l: distil giga-scale pathology encoders into students that run where cancer is treated."""

__version__ = "0.1.0"
