"""An adapter in the forms that other programs read, each with a certificate of what it answers."""
