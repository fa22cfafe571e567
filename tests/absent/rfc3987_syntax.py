"""No such package, as far as the tests' processes know.

With it jsonschema builds a grammar of addresses, 1.3 s in every process that reads a tokenizer
where mistral-common is installed; and no test checks an address.
"""

raise ImportError(__doc__)
