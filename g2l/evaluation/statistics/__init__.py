"""What may be concluded from numbers: intervals by patient, ranks across tasks."""
