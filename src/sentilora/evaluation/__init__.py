"""What an evaluation measures, and how it is shown in a terminal and in a browser."""
