"""Tests of the studies and of the store of answers that they share."""
