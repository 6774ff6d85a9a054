"""Eigen AI: one endpoint for making and editing, JSON or form, blocking or as a job."""
