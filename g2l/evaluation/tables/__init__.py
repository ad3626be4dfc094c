"""What is judged: rows with labels, their splits, and the layouts in which data sets are published."""
