"""Patches already cut: images, HDF5, tar shards."""
