"""Tokens -> scalars. One loss per file; nothing in this folder imports anything but torch and this folder."""
