"""How the embedded cohort is drawn: regions, tissues, stains and scanners of synthetic slides."""
