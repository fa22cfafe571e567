"""`python -m sentilora`: the command line, also under `accelerate launch`."""

from sentilora.cli.app import main

main()
