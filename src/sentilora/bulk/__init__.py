"""Scoring an input of any size: units of rows, each one a file, so that a job resumes."""
