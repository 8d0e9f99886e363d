"""Tests of links, drivers and simulators."""
