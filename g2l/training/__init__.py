"""The LightningModule: a student, frozen networks, a list of terms, one step."""
