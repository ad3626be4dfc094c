"""Results -> report.html."""
