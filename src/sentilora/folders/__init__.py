"""The files of adapter folders and run folders, as checked records."""
