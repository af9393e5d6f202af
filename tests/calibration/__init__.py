"""Tests of calibration and of the replay it runs on."""
