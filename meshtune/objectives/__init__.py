"""Objectives: what a trial evaluates."""
