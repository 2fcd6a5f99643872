"""Stages: plain functions from configuration and files to files; each also runs by hand, without Ray."""
