"""What lies in an adapter folder and in a run folder, as checked records."""
