"""The command line: options, errors and output, a file per verb. The work is done in `stages`."""
